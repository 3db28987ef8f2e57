// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"crypto/sha256"
	"crypto/subtle"
	_ "embed" // of the style
	"encoding/base64"
	"encoding/hex"
	"html/template"
	"net/http"
)

// common is the look of all pages.
//
//go:embed style.css
var common string

// Style is the look of a set of pages. It is in every page, so that none needs a second request.
type Style struct {
	CSS  template.CSS
	hash string
}

// NewStyle is the common look with the rules that one set of pages adds.
func NewStyle(own string) Style {
	css := common + own
	sum := sha256.Sum256([]byte(css))
	return Style{template.CSS(css), "sha256-" + base64.StdEncoding.EncodeToString(sum[:])}
}

// SetHeader adds what keeps a page safe: nothing foreign is loaded, no other page shows it in a frame, its forms lead only here or to the given source
// (empty: none), nothing of it is stored or told to the next page.
func (s Style) SetHeader(h http.Header, formAction string) {
	if formAction != "" {
		formAction = " " + formAction
	}
	h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+s.hash+"'; form-action 'self'"+formAction+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // with no-referrer browsers hide the origin of our own forms
	h.Set("Cache-Control", "no-store")
	h.Set("X-Robots-Tag", "noindex")
}

// FormKey is the proof in every form that the page which it stood on came to the browser with this cookie. kind keeps sets of pages apart.
func FormKey(kind, cookie string) string {
	sum := sha256.Sum256([]byte(kind + " " + cookie))
	return hex.EncodeToString(sum[:16])
}

// FormKeyFits says whether a form carries the proof; never for an empty cookie.
func FormKeyFits(kind, cookie, given string) bool {
	return cookie != "" && subtle.ConstantTimeCompare([]byte(FormKey(kind, cookie)), []byte(given)) == 1
}
