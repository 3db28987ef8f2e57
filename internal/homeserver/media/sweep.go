// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// sweepAfter is how old a file must be before it can count as left over: younger ones may belong to an upload whose row is being written.
const sweepAfter = 24 * time.Hour

// Sweep deletes files of a tenant that no row knows: what an interrupted upload or a crash between file and row left behind. It returns how
// many there were. The opposite, a row without a file, is found when somebody asks for it.
func (s *Service) Sweep(ctx context.Context, t tenant.ID) (removed int, err error) {
	before := s.o.Now().Add(-sweepAfter)
	err = filepath.WalkDir(s.blobs.tenantFolder(t), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.ModTime().After(before) {
			return ignoreGone(err)
		}
		known, err := s.known(ctx, t, d.Name())
		if err != nil || known {
			return err
		}
		removed++
		return ignoreGone(os.Remove(path))
	})
	return removed, err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Service) known(ctx context.Context, t tenant.ID, name string) (bool, error) {
	var n int64
	err := s.db.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM media WHERE tenant = $1 AND hash = $2) + (SELECT COUNT(*) FROM media_thumbnail WHERE tenant = $1 AND hash = $2)`,
		int64(t), name).Scan(&n)
	return n > 0, err
}
