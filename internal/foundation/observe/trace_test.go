// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestNewTrace(t *testing.T) {
	t.Parallel()
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	if got := NewTrace("00-" + id + "-00f067aa0ba902b7-01"); got != id {
		t.Errorf("got %s", got)
	}
	for _, bad := range []string{"", id, "00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", "ff-" + id + "-00f067aa0ba902b7-01", "00-" + strings.ToUpper(id) + "-00f067aa0ba902b7-01",
		"00-" + id[1:] + "-00f067aa0ba902b7-01", "00-" + id + "\n-00f067aa0ba902b7-01"} {
		got := NewTrace(bad)
		if got == id || !validTrace(got) || got == NewTrace(bad) {
			t.Errorf("of %q came %q", bad, got)
		}
	}
}

// TestTraceIsInTheLog: what is logged with a context carries its trace id, also through loggers made of the first.
func TestTraceIsInTheLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := NewLogger(LogOptions{Output: &out})
	ctx := WithTrace(context.Background(), "00000000000000000000000000000abc")
	log.InfoContext(ctx, "one")
	log.With("a", 1).WithGroup("g").InfoContext(ctx, "two")
	log.Info("three")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "trace=00000000000000000000000000000abc") || !strings.Contains(lines[1], "trace=00000000000000000000000000000abc") || strings.Contains(lines[2], "trace") {
		t.Errorf("the log says %s", out.String())
	}
}
