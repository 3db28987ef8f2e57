// SPDX-License-Identifier: Apache-2.0

package background_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/background"
)

func TestEvery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var runs atomic.Int32
		w := background.New()
		w.Every(time.Hour, slog.New(slog.NewTextHandler(&log, nil)), "rooms were not swept", func(context.Context) error {
			if runs.Add(1) == 2 {
				return errors.New("disk full")
			}
			return nil
		})
		synctest.Wait()
		if n := runs.Load(); n != 1 {
			t.Fatalf("%d runs at the start", n)
		}
		time.Sleep(2*time.Hour + time.Minute) // the bubble's clock
		synctest.Wait()
		if n := runs.Load(); n != 3 {
			t.Errorf("%d runs after two hours", n)
		}
		w.Close()
		time.Sleep(2 * time.Hour)
		if n := runs.Load(); n != 3 {
			t.Errorf("%d runs after the end", n)
		}
		if n := strings.Count(log.String(), "rooms were not swept"); n != 1 || !strings.Contains(log.String(), "disk full") {
			t.Errorf("one failure, but the log says %q", log.String())
		}
	})
}

func TestCloseWaitsAndIsSilent(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	ended, began := false, make(chan struct{})
	w := background.New()
	w.Every(time.Hour, slog.New(slog.NewTextHandler(&log, nil)), "failed", func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		ended = true
		return ctx.Err()
	})
	<-began
	w.Close()
	w.Close()
	if !ended {
		t.Error("Close did not wait")
	}
	if log.Len() > 0 {
		t.Errorf("the end itself was logged: %s", log.String())
	}
}
