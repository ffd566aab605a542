export function HeadsControls() { return null; }
export function HeadsView(_: { dark: boolean }) { return <p>heads</p>; }
