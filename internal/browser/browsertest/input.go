// SPDX-License-Identifier: Apache-2.0

package browsertest

import (
	"encoding/json"
	"fmt"
)

// find is JavaScript that finds what a person sees: a button, link or label that begins with a text or has it as its value or at the beginning of its
// address, or a field by its name.
const find = `(what => {
	const seen = e => e.checkVisibility() && !e.disabled;
	const text = e => e.innerText.trim().replace(/\s+/g, " ");
	return [...document.querySelectorAll("button, a[href], label, summary")].filter(seen).find(e =>
		text(e).startsWith(what) || e.value === what || (e.getAttribute("href") ?? "").startsWith(what)) ??
		[...document.querySelectorAll("input:not([type=hidden]), select, textarea")].filter(seen).find(e => e.name === what);
})`

// click presses the middle of what is seen under that name with the mouse.
func (p *Page) click(what string) {
	p.t.Helper()
	name, err := json.Marshal(what)
	p.must(err)
	var at *struct{ X, Y float64 }
	p.Eval(fmt.Sprintf(`(() => {
		const e = %s(%s);
		if (!e) return null;
		e.scrollIntoView({block: "center", behavior: "instant"});
		const box = e.getBoundingClientRect(), at = {x: box.x + box.width / 2, y: box.y + box.height / 2};
		const top = document.elementFromPoint(at.x, at.y);
		return e.contains(top) || e.control?.contains(top) ? at : null;
	})()`, find, name), &at)
	if at == nil {
		p.t.Fatalf("nothing to press is called %q on %s: %s", what, p.URL(), p.Text())
	}
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		p.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}

// Choose presses a label, a field or a button that leads nowhere else.
func (p *Page) Choose(what string) {
	p.t.Helper()
	p.click(what)
}

// Press presses a button or a link, by its value, the beginning of its text or of its address, and waits for the page to which it leads.
func (p *Page) Press(what string) {
	p.t.Helper()
	p.load(func() { p.click(what) })
}

// Fill writes a text into the field of that name, in place of what stood there.
func (p *Page) Fill(field, text string) {
	p.t.Helper()
	p.click(field)
	p.Eval("document.activeElement.select()", nil)
	p.call("Input.insertText", map[string]any{"text": text}, nil)
}
