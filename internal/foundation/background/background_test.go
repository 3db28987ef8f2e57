// SPDX-License-Identifier: Apache-2.0

package background_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/background"
)

func TestEvery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		runs := 0
		w := background.New()
		w.Every(time.Hour, slog.New(slog.NewTextHandler(&log, nil)), "rooms were not swept", func(context.Context) error {
			runs++
			if runs == 2 {
				return errors.New("disk full")
			}
			return nil
		})
		synctest.Wait()
		if runs != 1 {
			t.Fatalf("%d runs at the start", runs)
		}
		time.Sleep(2*time.Hour + time.Minute) // the bubble's clock
		synctest.Wait()
		if runs != 3 {
			t.Errorf("%d runs after two hours", runs)
		}
		w.Close()
		time.Sleep(2 * time.Hour)
		if runs != 3 {
			t.Errorf("%d runs after the end", runs)
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
