// SPDX-License-Identifier: Apache-2.0

package media_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/media"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	upload = "/_matrix/media/v3/upload"
	client = "/_matrix/client/v1/media"
	legacy = "/_matrix/media/v3"
	fed    = "/_matrix/federation/v1/media"
)

type rig struct {
	*accounttest.Rig
	media  *media.Service
	remote *remote
	folder string
	// later moves the service's clock, in ns.
	later atomic.Int64
}

func each(t *testing.T, change func(*media.Options), f func(t *testing.T, g *rig)) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := &rig{folder: t.TempDir(), remote: &remote{}}
		g.Rig = accounttest.New(t, db, nil, func(*accounttest.Rig) []httpapi.Route {
			o := media.Options{DB: db, Policy: policy.Open{}, Remote: g.remote, Now: func() time.Time { return time.Now().Add(time.Duration(g.later.Load())) }, Config: media.Config{Folder: g.folder, MaxUpload: 100_000}}
			if change != nil {
				change(&o)
			}
			var err error
			if g.media, err = media.New(o); err != nil {
				t.Fatal(err)
			}
			return g.media.Routes()
		})
		t.Cleanup(g.media.Close)
		g.remote.g = g
		f(t, g)
	})
}

// remote asks the rig's other tenant over HTTP, as federation would.
type remote struct {
	g    *rig
	mu   sync.Mutex
	n    int
	hold chan struct{}
}

func (r *remote) Get(_ context.Context, t *tenant.Tenant, server id.Server, path string, query url.Values, _ int64) (http.Header, io.ReadCloser, error) {
	r.mu.Lock()
	r.n++
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		<-hold
	}
	to := map[id.Server]*tenant.Tenant{r.g.A.Name: r.g.A, r.g.B.Name: r.g.B}[server]
	if to == nil {
		return nil, nil, mxerror.ConnectionFailed
	}
	a := r.g.AsServer(t.Name, to, "GET", path+"?"+query.Encode(), "")
	if a.Status != 200 {
		return nil, nil, mxerror.New(a.Status, a.Text("errcode"), a.Text("error"))
	}
	return a.Header, io.NopCloser(bytes.NewReader(a.Body)), nil
}

// put uploads and returns the path "server/id".
func put(u *accounttest.User, contentType, query string, content []byte) string {
	u.TB.Helper()
	return strings.TrimPrefix(u.Send("POST", upload+query, contentType, content).OK(nil).Text("content_uri"), "mxc://")
}

// Requirements: A_26262.
func TestUploadAndDownload(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		alice, carol := g.User(g.A, "alice"), g.User(g.A, "carol")
		where := put(alice, "text/plain; charset=utf-8", "?filename="+url.QueryEscape("Befund Müller.txt"), []byte("hello"))
		if !strings.HasPrefix(where, "a.test/") {
			t.Fatalf("%s", where)
		}
		a := carol.Do("GET", client+"/download/"+where, nil).OK(nil)
		if string(a.Body) != "hello" || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%q, %v", a.Body, a.Header)
		}
		kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Disposition"))
		if err != nil || kind != "inline" || params["filename"] != "Befund Müller.txt" {
			t.Errorf("disposition %q", a.Header.Get("Content-Disposition"))
		}
		if !strings.Contains(a.Header.Get("Content-Security-Policy"), "sandbox") || a.Header.Get("Cross-Origin-Resource-Policy") != "cross-origin" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%v", a.Header)
		}
		a = carol.Do("GET", client+"/download/"+where+"/other.txt", nil).OK(nil)
		if !strings.Contains(a.Header.Get("Content-Disposition"), "other.txt") {
			t.Errorf("%v", a.Header)
		}
		where = put(alice, "text/html", "", []byte("<script>"))
		if a := carol.Do("GET", client+"/download/"+where, nil).OK(nil); a.Header.Get("Content-Disposition") != "attachment" {
			t.Errorf("%v", a.Header)
		}
		where = put(alice, "", "", nil)
		if a := carol.Do("GET", client+"/download/"+where, nil).OK(nil); a.Header.Get("Content-Type") != "application/octet-stream" || len(a.Body) != 0 {
			t.Errorf("%v", a.Header)
		}
		for _, path := range []string{"/download/a.test/none", "/download/a.test/..%2F..%2Fx", "/thumbnail/a.test/none?width=10&height=10"} {
			carol.Do("GET", client+path, nil).Fails(404, "M_NOT_FOUND")
		}
		carol.Do("GET", client+"/download/"+where+"?timeout_ms=soon", nil).Fails(400, "M_INVALID_PARAM")
		carol.Do("GET", client+"/download/not%20a%20server/x", nil).Fails(400, "M_INVALID_PARAM")
		g.Nobody(g.A).Do("GET", client+"/download/"+where, nil).Fails(401, "M_MISSING_TOKEN")
		g.Nobody(g.A).Send("POST", upload, "text/plain", "x").Fails(401, "M_MISSING_TOKEN")
		alice.Host = "b.test"
		alice.Do("GET", client+"/download/"+where, nil).Fails(401, "M_UNKNOWN_TOKEN")
		carol.Do("GET", client+"/preview_url?url=http://x", nil).Fails(404, "M_UNRECOGNIZED")
		carol.Do("GET", legacy+"/preview_url?url=http://x", nil).Fails(404, "M_UNRECOGNIZED")
		for _, path := range []string{client + "/config", legacy + "/config"} {
			if a := carol.Do("GET", path, nil).OK(nil); a.Get("m.upload.size") != "100000" {
				t.Errorf("%s", a.Body)
			}
		}
	})
}

func TestUploadLimits(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.MaxUpload, o.Config.TenantQuota = 1000, 2500 }, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		alice.Send("POST", upload, "text/plain", make([]byte, 1001)).Fails(413, "M_TOO_LARGE")
		unknown := io.MultiReader(bytes.NewReader(make([]byte, 700)), bytes.NewReader(make([]byte, 700)))
		alice.Send("POST", upload, "text/plain", unknown).Fails(413, "M_TOO_LARGE") // found while reading
		alice.Send("POST", upload+"?filename="+strings.Repeat("x", 300), "text/plain", "x").Fails(400, "M_INVALID_PARAM")
		for range 2 {
			put(alice, "text/plain", "", make([]byte, 1000))
		}
		alice.Send("POST", upload, "text/plain", make([]byte, 1000)).Fails(403, "M_FORBIDDEN")
		put(g.User(g.B, "bob"), "text/plain", "", make([]byte, 1000)) // the neighbour has its own space
	})
}

// Equal content lies on disk once per tenant, and never shared between tenants.
func TestContentIsStoredOncePerTenant(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		one, two := put(alice, "text/plain", "", []byte("same")), put(alice, "text/plain", "", []byte("same"))
		put(bob, "text/plain", "", []byte("same"))
		if one == two {
			t.Errorf("two uploads got one id")
		}
		if n := files(t, g.folder); n != 2 {
			t.Errorf("%d files, want 2", n)
		}
	})
}

func files(t *testing.T, folder string) (n int) {
	t.Helper()
	err := filepath.WalkDir(folder, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAnnouncedUpload(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.MaxPending = 2 }, func(t *testing.T, g *rig) {
		alice, carol := g.User(g.A, "alice"), g.User(g.A, "carol")
		a := alice.Do("POST", "/_matrix/media/v1/create", nil).OK(nil)
		where := strings.TrimPrefix(a.Text("content_uri"), "mxc://")
		if a.Get("unused_expires_at") == "" {
			t.Errorf("%s", a.Body)
		}
		carol.Do("GET", client+"/download/"+where+"?timeout_ms=0", nil).Fails(504, "M_NOT_YET_UPLOADED")
		carol.Send("PUT", upload+"/"+where, "text/plain", "hers").Fails(403, "M_FORBIDDEN")
		alice.Send("PUT", upload+"/a.test/unknown", "text/plain", "x").Fails(404, "M_NOT_FOUND")
		alice.Send("PUT", upload+"/b.test/unknown", "text/plain", "x").Fails(404, "M_NOT_FOUND")
		waiting := make(chan *accounttest.Answer)
		go func() { waiting <- carol.Do("GET", client+"/download/"+where+"?timeout_ms=60000", nil) }()
		alice.Send("PUT", upload+"/"+where, "text/plain", "late").OK(nil)
		if got := <-waiting; got.Status != 200 || string(got.Body) != "late" {
			t.Errorf("%d %s", got.Status, got.Body)
		}
		alice.Send("PUT", upload+"/"+where, "text/plain", "again").Fails(409, "M_CANNOT_OVERWRITE_MEDIA")
		for range 2 {
			alice.Do("POST", "/_matrix/media/v1/create", nil).OK(nil)
		}
		alice.Do("POST", "/_matrix/media/v1/create", nil).Fails(429, "M_LIMIT_EXCEEDED")
	})
}

func TestAnnouncedUploadExpires(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		where := strings.TrimPrefix(alice.Do("POST", "/_matrix/media/v1/create", nil).OK(nil).Text("content_uri"), "mxc://")
		g.later.Store(int64(25 * time.Hour))
		alice.Do("GET", client+"/download/"+where, nil).Fails(404, "M_NOT_FOUND")
		alice.Send("PUT", upload+"/"+where, "text/plain", "x").Fails(404, "M_NOT_FOUND")
	})
}

func TestLegacyEndpointsAreFrozen(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		where := put(g.User(g.A, "alice"), "text/plain", "", []byte("secret"))
		nobody := g.Nobody(g.A)
		nobody.Do("GET", legacy+"/download/"+where, nil).Fails(404, "M_NOT_FOUND")
		nobody.Do("GET", legacy+"/thumbnail/"+where+"?width=9&height=9", nil).Fails(404, "M_NOT_FOUND")
		remote := put(g.User(g.B, "bob"), "text/plain", "", []byte("secret"))
		nobody.Do("GET", legacy+"/download/"+remote, nil).Fails(404, "M_NOT_FOUND")
		if g.remote.n != 0 {
			t.Error("something was fetched for nobody")
		}
	})
}

// Requirements: A_26263.
func TestLegacyEndpointsMayServe(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.Legacy = true }, func(t *testing.T, g *rig) {
		where := put(g.User(g.A, "alice"), "text/plain", "", []byte("open"))
		for _, version := range []string{"v3", "r0", "v1"} {
			if a := g.Nobody(g.A).Do("GET", "/_matrix/media/"+version+"/download/"+where, nil).OK(nil); string(a.Body) != "open" {
				t.Errorf("%s", a.Body)
			}
		}
		nobody := g.Nobody(g.B)
		nobody.Do("GET", legacy+"/download/"+where+"?allow_remote=false", nil).Fails(404, "M_NOT_FOUND")
		if a := nobody.Do("GET", legacy+"/download/"+where, nil).OK(nil); string(a.Body) != "open" {
			t.Errorf("%s", a.Body)
		}
		nobody.Host = "127.0.0.1"
		nobody.Do("GET", legacy+"/download/"+where, nil).Fails(404, "M_NOT_FOUND")
	})
}

func TestRemoteMediaIsFetchedOnce(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		where := put(bob, "image/png", "?filename=x.png", []byte("no picture"))
		g.remote.hold = make(chan struct{})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if a := alice.Do("GET", client+"/download/"+where, nil); a.Status != 200 || string(a.Body) != "no picture" || a.Header.Get("Content-Type") != "image/png" ||
					!strings.Contains(a.Header.Get("Content-Disposition"), "x.png") {
					t.Errorf("%d %s %v", a.Status, a.Body, a.Header)
				}
			})
		}
		close(g.remote.hold)
		wg.Wait()
		alice.Do("GET", client+"/download/"+where, nil).OK(nil)
		if g.remote.n != 1 {
			t.Errorf("%d fetches, want 1", g.remote.n)
		}
		alice.Do("GET", client+"/download/b.test/none", nil).Fails(404, "M_NOT_FOUND")
		alice.Do("GET", client+"/download/far.test/none", nil).Fails(502, "M_CONNECTION_FAILED")
	})
}

func TestRemoteCopiesMakeRoom(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.RemoteCache = 2500 }, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		for i := range 6 {
			where := put(bob, "text/plain", "", bytes.Repeat([]byte{byte(i)}, 1000))
			alice.Do("GET", client+"/download/"+where, nil).OK(nil)
		}
		if n := files(t, g.folder); n != 6+2 {
			t.Errorf("%d files, want Bob's 6 and 2 copies", n)
		}
	})
}

func TestFederationMedia(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		where := put(g.User(g.A, "alice"), "text/plain", "?filename=a.txt", []byte("content"))
		mediaID := strings.TrimPrefix(where, "a.test/")
		a := g.AsServer("far.test", g.A, "GET", fed+"/download/"+mediaID, "").OK(nil)
		_, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		parts := multipart.NewReader(bytes.NewReader(a.Body), params["boundary"])
		for i, want := range []struct{ kind, body string }{{"application/json", "{}"}, {"text/plain", "content"}} {
			part, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(part)
			if part.Header.Get("Content-Type") != want.kind || string(body) != want.body {
				t.Errorf("part %d: %v %s", i, part.Header, body)
			}
		}
		g.AsServer("far.test", g.A, "GET", fed+"/download/none", "").Fails(404, "M_NOT_FOUND")
		g.AsServer("far.test", g.B, "GET", fed+"/download/"+mediaID, "").Fails(404, "M_NOT_FOUND")
		g.AsServer("far.test", g.A, "GET", fed+"/thumbnail/"+mediaID+"?width=10&height=10", "").Fails(400, "M_UNKNOWN")
	})
}

func picture(w, h int, alpha uint8) image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, color.NRGBA{uint8(x), uint8(y), 99, alpha})
		}
	}
	return img
}

func TestThumbnails(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.MaxUpload, o.Config.MaxPixels = 10<<20, 1_000_000 }, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		var wide, glass, huge bytes.Buffer
		if err := jpeg.Encode(&wide, picture(900, 300, 255), nil); err != nil {
			t.Fatal(err)
		}
		if err := png.Encode(&glass, picture(200, 400, 100)); err != nil {
			t.Fatal(err)
		}
		if err := png.Encode(&huge, picture(2000, 600, 255)); err != nil {
			t.Fatal(err)
		}
		thumb := func(where, query string) (image.Config, string) {
			t.Helper()
			a := alice.Do("GET", client+"/thumbnail/"+where+query, nil).OK(nil)
			shape, format, err := image.DecodeConfig(bytes.NewReader(a.Body))
			if err != nil || a.Header.Get("Content-Type") != "image/"+format {
				t.Fatalf("%v, %s, %v", err, format, a.Header)
			}
			return shape, fmt.Sprintf("%s %d×%d", format, shape.Width, shape.Height)
		}
		one, two := put(alice, "image/jpeg", "", wide.Bytes()), put(alice, "image/png", "", glass.Bytes())
		for _, c := range []struct{ where, query, want string }{
			{one, "?width=300&height=200", "jpeg 320×106"},
			{one, "?width=300&height=200", "jpeg 320×106"}, // from disk
			{one, "?width=20&height=20&method=crop", "jpeg 32×32"},
			{one, "?width=5000&height=5000&method=scale", "jpeg 800×266"},
			{two, "?width=96&height=96&method=scale", "png 48×96"},
			{two, "?width=90&height=90&method=crop", "png 96×96"},
			{two, "?width=700&height=500", "png 200×400"}, // never larger than it is
		} {
			if _, got := thumb(c.where, c.query); got != c.want {
				t.Errorf("%s: %s, want %s", c.query, got, c.want)
			}
		}
		for query, code := range map[string]string{"": "M_MISSING_PARAM", "?width=10": "M_MISSING_PARAM", "?width=0&height=10": "M_INVALID_PARAM",
			"?width=-1&height=10": "M_INVALID_PARAM", "?width=x&height=10": "M_INVALID_PARAM", "?width=1&height=1&method=melt": "M_INVALID_PARAM"} {
			alice.Do("GET", client+"/thumbnail/"+one+query, nil).Fails(400, code)
		}
		alice.Do("GET", client+"/thumbnail/"+put(alice, "image/png", "", huge.Bytes())+"?width=10&height=10", nil).Fails(413, "M_TOO_LARGE")
		alice.Do("GET", client+"/thumbnail/"+put(alice, "image/png", "", []byte("rubbish"))+"?width=10&height=10", nil).Fails(400, "M_UNKNOWN")
		alice.Do("GET", client+"/thumbnail/"+put(alice, "text/plain", "", []byte("text"))+"?width=10&height=10", nil).Fails(400, "M_UNKNOWN")
		// Of another server's picture, made here.
		bob := g.User(g.B, "bob")
		a := bob.Do("GET", client+"/thumbnail/"+one+"?width=20&height=20&method=crop", nil).OK(nil)
		if a.Header.Get("Content-Type") != "image/jpeg" {
			t.Errorf("%v", a.Header)
		}
	})
}

func TestLostFilesAreFetchedAgainAndLeftOversGo(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		ctx := context.Background()
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		where := put(bob, "text/plain", "", []byte("hello"))
		alice.Do("GET", client+"/download/"+where, nil).OK(nil)
		removed := 0
		err := filepath.WalkDir(g.folder, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasPrefix(d.Name(), "r") {
				removed++
				return os.Remove(path)
			}
			return err
		})
		if err != nil || removed != 1 {
			t.Fatalf("%d copies, %v", removed, err)
		}
		if a := alice.Do("GET", client+"/download/"+where, nil).OK(nil); string(a.Body) != "hello" || g.remote.n != 2 {
			t.Errorf("%s after %d fetches", a.Body, g.remote.n)
		}
		put(alice, "text/plain", "", []byte("kept"))
		if _, err := g.DB.Exec(ctx, "DELETE FROM media WHERE tenant = $1 AND origin = 'b.test'", int64(g.A.ID)); err != nil {
			t.Fatal(err)
		}
		if n, err := g.media.Sweep(ctx, g.A.ID); err != nil || n != 0 {
			t.Errorf("a young file was swept: %d, %v", n, err)
		}
		g.later.Store(int64(25 * time.Hour))
		if n, err := g.media.Sweep(ctx, g.A.ID); err != nil || n != 1 {
			t.Errorf("%d left-overs, want 1, %v", n, err)
		}
		if n, err := g.media.Sweep(ctx, 1); err != nil || n != 0 {
			t.Errorf("tenant without a folder: %d, %v", n, err)
		}
	})
}
