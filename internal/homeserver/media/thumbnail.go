// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"image"
	_ "image/gif" // decoders of what clients send
	"image/jpeg"
	"image/png"
	"io"
	"mime"
	"strings"

	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The methods of a thumbnail.
const (
	methodCrop  = "crop"
	methodScale = "scale"
	// moving is added to the method of a thumbnail that may move.
	moving = "-animated"
)

// size is a thumbnail as it is made and kept.
type size struct {
	width, height int
	method        string
}

// sizes are the only thumbnails that are made, as the specification lists them: whatever is asked gets the smallest that is no smaller.
var sizes = []size{{32, 32, methodCrop}, {96, 96, methodCrop}, {320, 240, methodScale}, {640, 480, methodScale}, {800, 600, methodScale}}

// wantedSize reads the query.
func wantedSize(r *httpapi.Request) (size, error) {
	method := r.Query("method")
	switch method {
	case "":
		method = methodScale
	case methodCrop, methodScale:
	default:
		return size{}, mxerror.InvalidParam.With("method must be crop or scale")
	}
	var side [2]int
	for i, name := range []string{"width", "height"} {
		if r.Query(name) == "" {
			return size{}, mxerror.MissingParam.With("%s is missing", name)
		}
		n, err := r.QueryInt(name, 0, 1<<20)
		if err != nil {
			return size{}, err
		}
		if n < 1 {
			return size{}, mxerror.InvalidParam.With("%s must be at least 1", name)
		}
		side[i] = n
	}
	best := sizes[len(sizes)-1]
	for _, s := range sizes {
		if s.width >= side[0] && s.height >= side[1] {
			best = s
			break
		}
	}
	best.method = method
	if move, err := r.QueryBool("animated", false); err != nil || !move {
		return best, err
	}
	best.method += moving
	return best, nil
}

// made is a thumbnail on disk, or the original where that is no larger.
type made struct {
	hash, contentType string
}

func (s *Service) thumbnail(a access) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		want, err := wantedSize(r)
		if err != nil {
			return nil, err
		}
		m, err := s.lookup(ctx, r, a)
		if err != nil {
			return nil, err
		}
		f, t, err := s.openThumbnail(ctx, r.Tenant, m, want)
		if err != nil {
			return nil, err
		}
		return s.serve(r, f, t.contentType, m.fileName, t.hash), nil
	}
}

func (s *Service) federationThumbnail(ctx context.Context, r *httpapi.Request) (any, error) {
	want, err := wantedSize(r)
	if err != nil {
		return nil, err
	}
	m, err := s.federationItem(ctx, r)
	if err != nil {
		return nil, err
	}
	f, t, err := s.openThumbnail(ctx, r.Tenant, m, want)
	if err != nil {
		return nil, err
	}
	return serveFederation(f, t.contentType, m.fileName), nil
}

// openThumbnail opens a thumbnail, making it at the first time. Callers for one share the work.
func (s *Service) openThumbnail(ctx context.Context, t *tenant.Tenant, m *item, want size) (blob, made, error) {
	if !isImage(m.contentType) {
		return nil, made{}, errNoImage
	}
	found, err := s.storedThumbnail(ctx, t.ID, m, want)
	if err == nil {
		f, err := s.blobs.open(ctx, t.ID, found.hash)
		if !errors.Is(err, mxerror.NotFound) {
			return f, found, err
		}
	}
	if err == nil || errors.Is(err, sql.ErrNoRows) { // never made, or its file is gone
		done := s.thumbnails.DoChan(fmt.Sprintf("%d %s/%s %v", t.ID, m.origin, m.id, want), func() (any, error) {
			return s.makeThumbnail(tenant.With(s.work.Context(), t), t, m, want)
		})
		select {
		case r := <-done:
			if r.Err != nil {
				return nil, made{}, r.Err
			}
			found, err = r.Val.(made), nil
		case <-ctx.Done():
			return nil, made{}, ctx.Err()
		}
	}
	if err != nil {
		return nil, made{}, err
	}
	f, err := s.blobs.open(ctx, t.ID, found.hash)
	return f, found, err
}

var errNoImage = mxerror.New(400, "M_UNKNOWN", "There are no thumbnails of this kind of content")

func (s *Service) storedThumbnail(ctx context.Context, t tenant.ID, m *item, want size) (made, error) {
	var found made
	err := s.db.QueryRow(ctx, `SELECT hash, content_type FROM media_thumbnail WHERE tenant = $1 AND origin = $2 AND media_id = $3
		AND width = $4 AND height = $5 AND method = $6`, int64(t), m.origin, m.id, want.width, want.height, want.method).Scan(&found.hash, &found.contentType)
	return found, err
}

// makeThumbnail decodes, scales and keeps. Its size is checked before anything is decoded, and how many pixels are in memory at once is bounded.
func (s *Service) makeThumbnail(ctx context.Context, t *tenant.Tenant, m *item, want size) (made, error) {
	f, err := s.open(ctx, t, m)
	if err != nil {
		return made{}, err
	}
	defer f.Close()
	shape, _, err := image.DecodeConfig(f)
	if err != nil || shape.Width < 1 || shape.Height < 1 {
		return made{}, errNoImage
	}
	pixels := int64(shape.Width) * int64(shape.Height)
	if pixels > s.c.MaxPixels {
		return made{}, mxerror.TooLarge.With("the image has more than %d pixels", s.c.MaxPixels)
	}
	turned, err := s.turned(f)
	if err != nil {
		return made{}, err
	}
	if shape.Width <= want.width && shape.Height <= want.height { // never larger than the original
		return made{m.hash, m.contentType}, nil
	}
	if err := s.pixels.Acquire(ctx, pixels); err != nil {
		return made{}, err
	}
	defer s.pixels.Release(pixels)
	key, asked := fmt.Sprintf("%s/%s %d %d %s", m.origin, m.id, want.width, want.height, want.method), want
	img, _, err := image.Decode(f)
	if err != nil {
		return made{}, errNoImage
	}
	if method, still := strings.CutSuffix(want.method, moving); still {
		want.method = method
		if done, ok, err := s.makeMoving(ctx, t, m, f, asked, want, key); ok || err != nil {
			return done, err
		}
	}
	if turned >= 5 { // lies on its side
		want.width, want.height = want.height, want.width
	}
	small := upright(shrink(img, want), turned)
	var out bytes.Buffer
	result := made{contentType: "image/jpeg"}
	if opaque(img) {
		err = jpeg.Encode(&out, small, &jpeg.Options{Quality: 85})
	} else {
		result.contentType = "image/png"
		err = png.Encode(&out, small)
	}
	if err != nil {
		return made{}, err
	}
	return s.keepThumbnail(ctx, t, m, asked, key, result.contentType, out.Bytes())
}

// makeMoving makes a thumbnail that moves, of what moves; ok is false for everything else.
func (s *Service) makeMoving(ctx context.Context, t *tenant.Tenant, m *item, f io.ReadSeeker, asked, want size, key string) (done made, ok bool, err error) {
	if mediaType, _, err := mime.ParseMediaType(m.contentType); err != nil || mediaType != "image/gif" {
		return made{}, false, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return made{}, false, err
	}
	out, ok, err := animated(f, want, s.c.MaxPixels)
	if err != nil || !ok {
		return made{}, false, err
	}
	done, err = s.keepThumbnail(ctx, t, m, asked, key, "image/gif", out)
	return done, true, err
}

func (s *Service) keepThumbnail(ctx context.Context, t *tenant.Tenant, m *item, asked size, key, contentType string, out []byte) (made, error) {
	result := made{contentType: contentType}
	var err error
	if result.hash, _, err = s.blobs.write(ctx, t.ID, classThumbnail, key, bytes.NewReader(out), int64(len(out))); err != nil {
		return made{}, err
	}
	_, err = s.db.Exec(ctx, `INSERT INTO media_thumbnail (tenant, origin, media_id, width, height, method, hash, size, content_type)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`,
		int64(t.ID), m.origin, m.id, asked.width, asked.height, asked.method, result.hash, len(out), result.contentType)
	return result, err
}

// turned reads the orientation and leaves the file at its beginning.
func (s *Service) turned(f blob) (int, error) {
	head := make([]byte, 64<<10)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 1, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return orientation(head[:n]), err
}

func opaque(img image.Image) bool {
	o, ok := img.(interface{ Opaque() bool })
	return ok && o.Opaque()
}

// shrink scales an image into the box, keeping its shape, or crops it from the middle to fill the box.
func shrink(img image.Image, want size) image.Image {
	from := img.Bounds()
	w, h := from.Dx(), from.Dy()
	to := image.Pt(want.width, want.height)
	if want.method == methodScale {
		if w*want.height > h*want.width { // wider than the box
			to.Y = max(1, h*want.width/w)
		} else {
			to.X = max(1, w*want.height/h)
		}
	} else {
		to = image.Pt(min(want.width, w), min(want.height, h))
		if w*to.Y > h*to.X {
			cut := h * to.X / to.Y
			from.Min.X += (w - cut) / 2
			from.Max.X = from.Min.X + max(1, cut)
		} else {
			cut := w * to.Y / to.X
			from.Min.Y += (h - cut) / 2
			from.Max.Y = from.Min.Y + max(1, cut)
		}
	}
	out := image.NewRGBA(image.Rectangle{Max: to})
	draw.ApproxBiLinear.Scale(out, out.Bounds(), img, from, draw.Src, nil)
	return out
}
