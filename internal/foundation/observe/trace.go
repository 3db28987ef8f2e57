// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strings"
)

type traceKey struct{}

// WithTrace gives what is done under a context the name by which its lines in the log are found.
func WithTrace(ctx context.Context, trace string) context.Context {
	return context.WithValue(ctx, traceKey{}, trace)
}

// Trace is the context's trace id: 32 lower-case hexadecimal digits, empty where there is none.
func Trace(ctx context.Context) string {
	trace, _ := ctx.Value(traceKey{}).(string)
	return trace
}

// traceDigits is the length of a trace id (W3C Trace Context, section 3.2.2.3).
const traceDigits = 32

// NewTrace takes the trace id of a traceparent header, so that a proxy's traces go on in our log, or draws one where there is no valid header.
func NewTrace(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) >= 4 && len(parts[0]) == 2 && parts[0] != "ff" && validTrace(parts[1]) {
		return parts[1]
	}
	var random [traceDigits / 2]byte
	rand.Read(random[:])
	return hex.EncodeToString(random[:])
}

func validTrace(trace string) bool {
	if len(trace) != traceDigits || strings.Trim(trace, "0") == "" {
		return false
	}
	return strings.Trim(trace, "0123456789abcdef") == ""
}

// traced adds the context's trace id to every line that is written with a context.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if trace := Trace(ctx); trace != "" {
		r.AddAttrs(slog.String("trace", trace))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }
func (h traced) WithGroup(name string) slog.Handler       { return traced{h.Handler.WithGroup(name)} }
