// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// storage is where content lies: folders or an S3-compatible store. Names are hexadecimal digits with a letter for their class, so that no outside text
// reaches a path.
type storage interface {
	// keep takes over a local file under a name, durably. One of that name is replaced; it has the same content.
	keep(ctx context.Context, t tenant.ID, name, file string) error
	// open returns content to read; errNotFound where it is gone.
	open(ctx context.Context, t tenant.ID, name string) (blob, error)
	// remove deletes content; what is gone is no error.
	remove(ctx context.Context, t tenant.ID, name string) error
	// walk tells a tenant's content with the time at which it was stored.
	walk(ctx context.Context, t tenant.ID, f func(name string, stored time.Time) error) error
}

// blob is content being read.
type blob interface {
	io.ReadSeekCloser
	io.ReaderAt
}

// blobs takes content in: through a file of its own, in which it is measured, hashed and scanned before anything is kept.
type blobs struct {
	storage
	// incoming is the folder of content that is arriving.
	incoming string
	// scan, when set, refuses content with malware in it.
	scan func(ctx context.Context, content io.Reader) error
}

// errTooLarge ends a copy that goes beyond its bound.
var errTooLarge = errors.New("content is too large")

// classes of content by the letter before the hash.
const (
	classOwn       = ""
	classRemote    = "r"
	classThumbnail = "t"
)

// write stores content durably and returns its name and size. The name is the content's hash, or, given a key, the key's: copies of remote media
// and thumbnails have names of their own, so that dropping one never takes another's file.
func (b blobs) write(ctx context.Context, t tenant.ID, class, key string, content io.Reader, maxBytes int64) (name string, size int64, err error) {
	if err := os.MkdirAll(b.incoming, 0o700); err != nil {
		return "", 0, fmt.Errorf("media folder: %w", err)
	}
	f, err := os.CreateTemp(b.incoming, "*")
	if err != nil {
		return "", 0, fmt.Errorf("media file: %w", err)
	}
	defer func() {
		f.Close()
		os.Remove(f.Name()) // gone already where it was kept
	}()
	hash := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, hash), io.LimitReader(content, maxBytes+1))
	if err != nil {
		return "", 0, err
	}
	if size > maxBytes {
		return "", 0, errTooLarge
	}
	if b.scan != nil && class != classThumbnail {
		if err := b.scan(ctx, io.NewSectionReader(f, 0, size)); err != nil {
			return "", 0, err
		}
	}
	sum := hash.Sum(nil)
	if key != "" {
		k := sha256.Sum256([]byte(key))
		sum = k[:]
	}
	name = class + hex.EncodeToString(sum)
	if err = f.Sync(); err != nil {
		return "", 0, fmt.Errorf("media file: %w", err)
	}
	if err = b.keep(ctx, t, name, f.Name()); err != nil {
		return "", 0, fmt.Errorf("media file: %w", err)
	}
	return name, size, nil
}

// clear deletes what was arriving when the program ended.
func (b blobs) clear() error {
	left, err := filepath.Glob(filepath.Join(b.incoming, "*"))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// place is where content lies below the root of a storage: tenant/xx/name.
func place(t tenant.ID, name string) string {
	return strconv.FormatInt(int64(t), 36) + "/" + name[len(name)-2:] + "/" + name
}
