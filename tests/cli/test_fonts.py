"""Labels in scripts that the machine's fonts may not have."""

from dataclasses import replace

import pytest
from matplotlib.font_manager import get_font_names

import attnviz
from attnviz.show.figures.style import _FALLBACKS


def test_letters_that_no_font_has_are_told_in_one_line(run, tmp_path):
    # A letter of the Unicode private use area is in no font.
    inputs = replace(attnviz.synthesize(heads=1, tokens=2), tokens=[["\ue0aa\ue0ab", "plain"]])
    attnviz.save(tmp_path / "dump.safetensors", inputs)
    result = run("plot", str(tmp_path / "dump.safetensors"), "-o", str(tmp_path / "map.png"))
    assert result.code == 0
    told = [line for line in result.err.splitlines() if "no font here has" in line]
    assert len(told) == 1
    assert "\ue0aa\ue0ab" in told[0]
    assert "Warning" not in result.err


def test_the_script_and_a_font_for_it_are_named(run, tmp_path):
    from matplotlib.font_manager import fontManager, get_font

    if any(
        ord("東") in get_font(font.fname).get_charmap() for font in fontManager.ttflist if "LastR" not in font.fname
    ):
        pytest.skip("a font here has Chinese letters")
    inputs = replace(attnviz.synthesize(heads=1, tokens=2), tokens=[["東", "plain"]])
    attnviz.save(tmp_path / "dump.safetensors", inputs)
    result = run("plot", str(tmp_path / "dump.safetensors"), "-o", str(tmp_path / "map.png"))
    assert "no font here has 東 (CJK): drawn as boxes; install Noto Sans CJK" in result.err


def test_the_command_line_asks_only_for_fonts_that_are_there():
    import matplotlib as mpl

    from attnviz.show.figures.style import house_style

    with house_style():
        asked = mpl.rcParams["font.family"]
    assert asked[0] == "DejaVu Sans"
    assert set(asked[1:]) == set(_FALLBACKS) & set(get_font_names())
