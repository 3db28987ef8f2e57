// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/html/charset"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// PreviewConfig says whether and how pages are fetched for previews of links (client-server API, "GET /media/preview_url").
type PreviewConfig struct {
	Enabled bool
	// MaxPage is how many bytes of a page are read, and how large its picture may be.
	MaxPage int64
	// Timeout bounds a page with its redirects and its picture.
	Timeout time.Duration
	// Guard refuses addresses at the moment of connecting; nil lets every one through.
	Guard func(network, address string, c syscall.RawConn) error
}

const (
	previewRedirects = 3
	previewLife      = time.Hour
	previewCacheSize = 1000
	maxPreviewURL    = 4096
)

// preview is what a page tells about itself.
type preview map[string]any

type previewKey struct {
	tenant tenant.ID
	url    string
}

type cachedPreview struct {
	preview preview
	until   time.Time
}

// previewer fetches pages. A tenant's previews are its own: what one looks at tells the others nothing.
type previewer struct {
	c      PreviewConfig
	client *http.Client
	kept   cache.Cache[previewKey, cachedPreview]
}

func newPreviewer(c PreviewConfig) *previewer {
	dialer := &net.Dialer{Timeout: c.Timeout, Control: c.Guard}
	return &previewer{c: c, kept: cache.New(cache.Options[previewKey, cachedPreview]{Entries: previewCacheSize}), client: &http.Client{
		Timeout: c.Timeout,
		Transport: &http.Transport{ // no proxy of the environment: the guard must see the page's own address
			DialContext: dialer.DialContext, TLSHandshakeTimeout: c.Timeout, ResponseHeaderTimeout: c.Timeout,
			MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > previewRedirects {
				return fmt.Errorf("more than %d redirects", previewRedirects)
			}
			return previewable(req.URL)
		},
	}}
}

// previewable refuses addresses that are not of the web.
func previewable(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return mxerror.InvalidParam.With("url must be an http or https address without a password")
	}
	return nil
}

func (s *Service) previewURL(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.previews == nil {
		return nil, mxerror.Unrecognized.With("this server makes no previews of links")
	}
	text := r.Query("url")
	if text == "" {
		return nil, mxerror.MissingParam.With("url is missing")
	}
	u, err := url.Parse(text)
	if err != nil || len(text) > maxPreviewURL {
		return nil, mxerror.InvalidParam.With("url must be an http or https address without a password")
	}
	if err := previewable(u); err != nil {
		return nil, err
	}
	u.Fragment = ""
	key := previewKey{r.Tenant.ID, u.String()}
	if kept, ok := s.previews.kept.Get(key); ok && s.o.Now().Before(kept.until) {
		return kept.preview, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.previews.c.Timeout)
	defer cancel()
	p, err := s.preview(ctx, r.Tenant, r.Session.User, u)
	if err != nil {
		return nil, err
	}
	s.previews.kept.Set(key, cachedPreview{p, s.o.Now().Add(previewLife)})
	return p, nil
}

// errPreview is told instead of what went wrong, which would say what the server can reach.
var errPreview = mxerror.New(http.StatusBadGateway, "M_UNKNOWN", "this page gives no preview")

// fetched is a page or picture, cut at the limit.
type fetched struct {
	url         *url.URL // after redirects
	contentType string
	header      string // Content-Type with its parameters
	body        []byte
	whole       bool
}

func (p *previewer) fetch(ctx context.Context, u *url.URL, accept string) (*fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errPreview
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "Konsil (link preview)")
	res, err := p.client.Do(req)
	if err != nil {
		return nil, errPreview
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errPreview
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, p.c.MaxPage+1))
	if err != nil {
		return nil, errPreview
	}
	f := &fetched{url: res.Request.URL, header: res.Header.Get("Content-Type"), body: body, whole: int64(len(body)) <= p.c.MaxPage}
	f.body = f.body[:min(int64(len(f.body)), p.c.MaxPage)]
	if f.contentType, _, err = mime.ParseMediaType(f.header); err != nil {
		f.contentType = "application/octet-stream"
	}
	return f, nil
}

// preview fetches a page and reads what it says of itself, with its picture copied into the tenant's media: clients ask no foreign server.
func (s *Service) preview(ctx context.Context, t *tenant.Tenant, user id.User, u *url.URL) (preview, error) {
	f, err := s.previews.fetch(ctx, u, "text/html,application/xhtml+xml,image/*;q=0.8,*/*;q=0.1")
	if err != nil {
		return nil, err
	}
	if picture(f) {
		out := preview{}
		return out, s.keepPicture(ctx, t, user, f, out)
	}
	if f.contentType != "text/html" && f.contentType != "application/xhtml+xml" {
		return preview{}, nil
	}
	text, err := charset.NewReader(bytes.NewReader(f.body), f.header)
	if err != nil {
		return nil, errPreview
	}
	out, image := readPage(text)
	if image == "" {
		return out, nil
	}
	address, err := f.url.Parse(image)
	if err != nil || previewable(address) != nil {
		return out, nil //nolint:nilerr // a page with a broken picture still has a title
	}
	img, err := s.previews.fetch(ctx, address, "image/*")
	if err != nil || !picture(img) {
		return out, nil //nolint:nilerr // as above
	}
	return out, s.keepPicture(ctx, t, user, img, out)
}

// picture says whether what was fetched is a whole picture of a kind that clients show.
func picture(f *fetched) bool {
	switch f.contentType {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return f.whole
	}
	return false
}

// keepPicture stores a picture and adds what the preview says of it. A tenant without space left gets the preview without.
func (s *Service) keepPicture(ctx context.Context, t *tenant.Tenant, user id.User, f *fetched, out preview) error {
	if err := s.withinQuota(ctx, t.ID, user, int64(len(f.body))); err != nil {
		if errors.Is(err, mxerror.Forbidden) {
			return nil
		}
		return err
	}
	name, size, err := s.blobs.write(ctx, t.ID, classOwn, "", bytes.NewReader(f.body), s.c.MaxUpload)
	if errors.Is(err, errTooLarge) || mxerror.From(err) != nil {
		return nil
	}
	if err != nil {
		return err
	}
	media := newMediaID()
	_, err = s.db.Exec(ctx, `INSERT INTO media (tenant, origin, media_id, user_id, hash, size, content_type, file_name, legacy, created, accessed, expires)
		VALUES ($1, '', $2, $3, $4, $5, $6, '', $7, $8, $8, 0)`, int64(t.ID), media, string(user), name, size, f.contentType, s.c.Legacy, s.now())
	if err != nil {
		return err
	}
	out["og:image"], out["og:image:type"], out["matrix:image:size"] = uri(t, media), f.contentType, size
	if w, h := dimensions(f.body); w > 0 {
		out["og:image:width"], out["og:image:height"] = w, h
	}
	return nil
}

// legible makes a text of a page fit for showing.
func legible(text string, most int) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > most {
		text = strings.TrimSpace(string(runes[:most])) + "…"
	}
	return text
}
