// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"fmt"
	"html/template"
	"net/url"
	"strings"

	"rsc.io/qr"
)

// App is the secret of an authenticator app as people get it into their app: typed, opened on the same device, or taken from the screen by a camera.
type App struct {
	Secret  string       // in groups of four
	Link    template.URL // the "otpauth" address that apps open; its scheme is not among those that templates trust by themselves
	Picture template.HTML
}

// maxIssuer is how many characters of an issuer's name go into the app: with more the picture gets too fine for cameras.
const maxIssuer = 64

// NewApp makes it for an account of an issuer; both are what the app shows. The secret is base32. An account of more than 1,000 bytes is an error.
func NewApp(issuer, account, secret string) (*App, error) {
	if runes := []rune(issuer); len(runes) > maxIssuer {
		issuer = string(runes[:maxIssuer])
	}
	link := "otpauth://totp/" + url.PathEscape(issuer+":"+account) + "?" + strings.ReplaceAll(url.Values{"secret": {secret}, "issuer": {issuer}}.Encode(), "+", "%20")
	picture, err := picture(link)
	if err != nil {
		return nil, err
	}
	return &App{Secret: grouped(secret), Link: template.URL(link), Picture: picture}, nil
}

// quiet is the white border that a QR code needs, in modules.
const quiet = 4

// picture is a text as a QR code, drawn by the page itself: images would be foreign to its policy. It is black on white also where the page is dark,
// because cameras want it so. To those who do not see it the link and the secret beside it say the same.
func picture(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", err
	}
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			if !code.Black(x, y) {
				continue
			}
			from := x
			for code.Black(x+1, y) {
				x++
			}
			fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x+1-from, x+1-from)
		}
	}
	size := code.Size + 2*quiet
	return template.HTML(fmt.Sprintf(`<svg class="qr" viewBox="0 0 %d %d" aria-hidden="true" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%dv%dH0z"/><path fill="#000" d="%s"/></svg>`,
		size, size, size, size, path.String())), nil
}

// grouped writes a secret in groups of four, to be typed.
func grouped(secret string) string {
	var b strings.Builder
	for i, c := range secret {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}
