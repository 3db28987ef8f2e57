// SPDX-License-Identifier: Apache-2.0

package media

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// blobs keeps content in files: folder/tenant/xx/name. Names are made here of hexadecimal digits, so that no outside text reaches a path.
type blobs struct{ folder string }

// errTooLarge ends a copy that goes beyond its bound.
var errTooLarge = errors.New("content is too large")

func (b blobs) tenantFolder(t tenant.ID) string {
	return filepath.Join(b.folder, strconv.FormatInt(int64(t), 36))
}

func (b blobs) path(t tenant.ID, name string) string {
	return filepath.Join(b.tenantFolder(t), name[len(name)-2:], name)
}

// write stores content durably and returns its name and size. The name is the content's hash, or, given a key, the key's: copies of remote media
// and thumbnails have names of their own, so that dropping one never takes another's file. prefix keeps the classes apart.
func (b blobs) write(t tenant.ID, prefix, key string, content io.Reader, maxBytes int64) (name string, size int64, err error) {
	incoming := filepath.Join(b.tenantFolder(t), "incoming")
	if err := os.MkdirAll(incoming, 0o700); err != nil {
		return "", 0, fmt.Errorf("media folder: %w", err)
	}
	f, err := os.CreateTemp(incoming, "*")
	if err != nil {
		return "", 0, fmt.Errorf("media file: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	hash := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, hash), io.LimitReader(content, maxBytes+1))
	if err != nil {
		return "", 0, err
	}
	if size > maxBytes {
		return "", 0, errTooLarge
	}
	sum := hash.Sum(nil)
	if key != "" {
		k := sha256.Sum256([]byte(key))
		sum = k[:]
	}
	name = prefix + hex.EncodeToString(sum)
	if err = f.Sync(); err != nil {
		return "", 0, fmt.Errorf("media file: %w", err)
	}
	if err = f.Close(); err != nil {
		return "", 0, fmt.Errorf("media file: %w", err)
	}
	target := b.path(t, name)
	if err = os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return "", 0, fmt.Errorf("media folder: %w", err)
	}
	if err = os.Rename(f.Name(), target); err != nil {
		return "", 0, fmt.Errorf("media file: %w", err)
	}
	if err = syncFolder(filepath.Dir(target)); err != nil {
		return "", 0, fmt.Errorf("media folder: %w", err)
	}
	return name, size, nil
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

// open returns a file to read; errNotFound where it is gone.
func (b blobs) open(t tenant.ID, name string) (*os.File, error) {
	f, err := os.Open(b.path(t, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound
	}
	return f, err
}

// remove deletes a file; one that is gone is no error.
func (b blobs) remove(t tenant.ID, name string) error {
	err := os.Remove(b.path(t, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
