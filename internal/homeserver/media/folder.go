// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// folder keeps content in files.
type folder string

func (b folder) path(t tenant.ID, name string) string {
	return filepath.Join(string(b), filepath.FromSlash(place(t, name)))
}

func (b folder) keep(_ context.Context, t tenant.ID, name, file string) error {
	target := b.path(t, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	if err := os.Rename(file, target); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(target))
}

// syncFolder makes a rename survive a power cut.
func syncFolder(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (b folder) open(_ context.Context, t tenant.ID, name string) (blob, error) {
	f, err := os.Open(b.path(t, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (b folder) remove(_ context.Context, t tenant.ID, name string) error {
	return ignoreGone(os.Remove(b.path(t, name)))
}

func (b folder) walk(_ context.Context, t tenant.ID, f func(name string, stored time.Time) error) error {
	return filepath.WalkDir(filepath.Join(string(b), strconv.FormatInt(int64(t), 36)), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		return f(d.Name(), info.ModTime())
	})
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
