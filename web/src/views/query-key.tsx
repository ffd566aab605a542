export function QueryKeyControls() { return null; }
export function QueryKeyView(_: { dark: boolean }) { return <p>qk</p>; }
