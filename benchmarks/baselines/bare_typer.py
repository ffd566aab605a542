"""The smallest typer program: what any typer program costs."""

import typer

app = typer.Typer()


@app.command()
def hello(name: str) -> None:
    """Say hello."""
    print(f"hello {name}")


if __name__ == "__main__":
    app()
