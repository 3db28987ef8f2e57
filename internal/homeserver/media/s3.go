// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// S3Config names a bucket of an S3-compatible store.
type S3Config struct {
	// Endpoint is host:port; empty keeps content in files.
	Endpoint, Bucket, Region, AccessKey, SecretKey string
	// Prefix stands before the names of all objects.
	Prefix string
	// Plain speaks HTTP without TLS.
	Plain bool
}

// bucket keeps content in an S3-compatible store.
type bucket struct {
	client       *minio.Client
	name, prefix string
}

func newBucket(c S3Config) (*bucket, error) {
	client, err := minio.New(c.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), Secure: !c.Plain, Region: c.Region})
	if err != nil {
		return nil, fmt.Errorf("media.s3: %w", err)
	}
	return &bucket{client: client, name: c.Bucket, prefix: strings.Trim(c.Prefix, "/")}, nil
}

// check says whether the store answers and has the bucket.
func (b *bucket) check(ctx context.Context) error {
	there, err := b.client.BucketExists(ctx, b.name)
	if err == nil && !there {
		err = fmt.Errorf("there is no bucket %q", b.name)
	}
	if err != nil {
		return fmt.Errorf("media.s3: %w", err)
	}
	return nil
}

func (b *bucket) key(t tenant.ID, name string) string { return path.Join(b.prefix, place(t, name)) }

func (b *bucket) keep(ctx context.Context, t tenant.ID, name, file string) error {
	_, err := b.client.FPutObject(ctx, b.name, b.key(t, name), file, minio.PutObjectOptions{ContentType: octetStream})
	if err != nil {
		return err
	}
	return os.Remove(file)
}

func (b *bucket) open(ctx context.Context, t tenant.ID, name string) (blob, error) {
	o, err := b.client.GetObject(context.WithoutCancel(ctx), b.name, b.key(t, name), minio.GetObjectOptions{}) // it is read after the handler has returned
	if err != nil {
		return nil, notFoundAsOurs(err)
	}
	if _, err := o.Stat(); err != nil {
		return nil, errors.Join(notFoundAsOurs(err), o.Close())
	}
	return o, nil
}

// notFoundAsOurs turns the store's answer for a missing object into ours.
func notFoundAsOurs(err error) error {
	if minio.ToErrorResponse(err).StatusCode == http.StatusNotFound {
		return errNotFound
	}
	return err
}

func (b *bucket) remove(ctx context.Context, t tenant.ID, name string) error {
	return b.client.RemoveObject(ctx, b.name, b.key(t, name), minio.RemoveObjectOptions{})
}

func (b *bucket) walk(ctx context.Context, t tenant.ID, f func(name string, stored time.Time) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when f does
	defer cancel()
	prefix := path.Join(b.prefix, strconv.FormatInt(int64(t), 36)) + "/"
	for o := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return o.Err
		}
		if err := f(path.Base(o.Key), o.LastModified); err != nil {
			return err
		}
	}
	return ctx.Err()
}
