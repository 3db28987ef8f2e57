// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

// LogOptions shapes the log.
type LogOptions struct {
	Output io.Writer
	// Level is the lowest level written.
	Level slog.Leveler
	// JSON writes one JSON object a line, for collectors; otherwise key=value text.
	JSON bool
	// Pseudonyms hides user ids; nil takes a key of this process, so that pseudonyms change with every start.
	Pseudonyms *Pseudonyms
}

// NewLogger returns the log of one node. Lines written with a context carry its [Trace].
func NewLogger(o LogOptions) *slog.Logger {
	if o.Pseudonyms == nil {
		o.Pseudonyms = NewPseudonyms(nil)
	}
	options := &slog.HandlerOptions{Level: o.Level, ReplaceAttr: o.Pseudonyms.replace}
	if o.JSON {
		return slog.New(traced{slog.NewJSONHandler(o.Output, options)})
	}
	return slog.New(traced{slog.NewTextHandler(o.Output, options)})
}

// Pseudonyms turns user ids into short keyed names: the same user keeps the name as long as the key lasts, and without the key nobody gets
// back from the name to the user.
type Pseudonyms struct{ key []byte }

// NewPseudonyms takes the key; nil draws one for this process.
func NewPseudonyms(key []byte) *Pseudonyms {
	if key == nil {
		key = make([]byte, 32)
		rand.Read(key)
	}
	return &Pseudonyms{key: key}
}

var pseudonymEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Of returns the pseudonym of one user id, such as "@~k3vq7m2x5a:example.org". The server name stays readable.
func (p *Pseudonyms) Of(user string) string {
	mac := hmac.New(sha256.New, p.key)
	io.WriteString(mac, user)
	name := pseudonymEncoding.EncodeToString(mac.Sum(nil)[:6])
	_, server, _ := strings.Cut(user, ":")
	return "@~" + name + ":" + server
}

var (
	userIDPattern = regexp.MustCompile(`@[^\s:@~"'()\[\]{}<>,;][^\s:"'()\[\]{}<>,;]*:[\[\]0-9A-Za-z:.-]+`)
	tokenPattern  = regexp.MustCompile(`\bk[a-z]_-?[0-9a-z]+_[0-9A-Za-z_-]{8,}|(?i:access_token=|bearer )[^\s&"']+`)
)

// Clean replaces all user ids in a text by their pseudonyms and removes access tokens.
func (p *Pseudonyms) Clean(text string) string {
	if strings.Contains(text, "@") {
		text = userIDPattern.ReplaceAllStringFunc(text, p.Of)
	}
	if strings.Contains(text, "_") || strings.Contains(text, "earer") {
		text = tokenPattern.ReplaceAllString(text, "[token]")
	}
	return text
}

// replace is slog's ReplaceAttr: it sees every attribute and the message.
func (p *Pseudonyms) replace(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); strings.ContainsAny(s, "@_") || strings.Contains(s, "earer") {
			a.Value = slog.StringValue(p.Clean(s))
		}
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case *slog.Source, slog.Level:
		case error:
			a.Value = slog.StringValue(p.Clean(v.Error()))
		default:
			a.Value = slog.StringValue(p.Clean(fmt.Sprint(v)))
		}
	}
	return a
}
