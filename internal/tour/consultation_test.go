// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package tour_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/tour"
)

// TestConsultation is the consultation, on both databases.
//
// Requirements: A_22936, AF_10057, AF_10058, AF_10061.
func TestConsultation(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, urls [3]string) {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute) // ends a test that hangs
		defer cancel()
		var out bytes.Buffer
		err := tour.Run(ctx, tour.Options{Folder: t.TempDir(), Databases: urls, Out: &out})
		t.Log("\n" + out.String())
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		run(t, [3]string{})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		run(t, [3]string{databasetest.Postgres(t), databasetest.Postgres(t), databasetest.Postgres(t)})
	})
}
