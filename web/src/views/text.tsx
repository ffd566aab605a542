export function TextControls() { return null; }
export function TextView(_: { dark: boolean }) { return <p>text</p>; }
