// SPDX-License-Identifier: Apache-2.0

package media_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/homeserver/media"
)

// store is an S3 server in memory with one bucket.
func store(t *testing.T) (media.S3Config, *s3mem.Backend) {
	backend := s3mem.New()
	if err := backend.CreateBucket("media"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	return media.S3Config{Endpoint: strings.TrimPrefix(server.URL, "http://"), Bucket: "media", AccessKey: "key", SecretKey: "secret", Prefix: "konsil", Plain: true, Region: "eu-central-1"}, backend
}

func objects(t *testing.T, backend *s3mem.Backend) []string {
	t.Helper()
	list, err := backend.ListBucket("media", nil, gofakes3.ListBucketPage{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range list.Contents {
		names = append(names, o.Key)
	}
	return names
}

// TestS3: content lies in the bucket and nowhere else, is read back whole and in parts, gets thumbnails, is deleted and swept.
func TestS3(t *testing.T) {
	// A server for each database: both count what lies in the bucket, at the same time.
	backends := map[*database.DB]*s3mem.Backend{}
	var mu sync.Mutex
	each(t, func(o *media.Options) {
		config, backend := store(t)
		mu.Lock()
		defer mu.Unlock()
		o.Config.S3, backends[o.DB] = config, backend
	}, func(t *testing.T, g *rig) {
		mu.Lock()
		backend := backends[g.DB]
		mu.Unlock()
		if err := g.media.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		alice := g.User(g.A, "alice")
		before := len(objects(t, backend))
		text := bytes.Repeat([]byte("Befund "), 5000)
		where := put(alice, "text/plain", "?filename=befund.txt", text)
		image := put(alice, "image/gif", "", gifOf(t, 900, 700, 1))
		if n := len(objects(t, backend)) - before; n != 2 {
			t.Fatalf("%d objects of two uploads: %v", n, objects(t, backend))
		}
		if n := files(t, g.folder); n != 0 {
			t.Errorf("%d files beside the bucket", n)
		}
		if a := alice.Do("GET", client+"/download/"+where, nil).OK(nil); !bytes.Equal(a.Body, text) {
			t.Errorf("got %d bytes, want %d", len(a.Body), len(text))
		}
		alice.Header = http.Header{"Range": {"bytes=7-13"}}
		if part := alice.Do("GET", client+"/download/"+where, nil); part.Status != 206 || string(part.Body) != "Befund " {
			t.Errorf("a range: %d %q", part.Status, part.Body)
		}
		alice.Header = nil
		if a := alice.Do("GET", client+"/thumbnail/"+image+"?width=32&height=32&method=crop", nil).OK(nil); len(a.Body) == 0 {
			t.Error("an empty thumbnail")
		}
		if err := g.media.Delete(t.Context(), g.A.ID, strings.TrimPrefix(where, "a.test/")); err != nil {
			t.Fatal(err)
		}
		alice.Do("GET", client+"/download/"+where, nil).Fails(404, "M_NOT_FOUND")
		if _, err := g.DB.Exec(t.Context(), "DELETE FROM media WHERE tenant = $1", int64(g.A.ID)); err != nil {
			t.Fatal(err)
		}
		g.later.Store(int64(25 * time.Hour))
		if n, err := g.media.Sweep(t.Context(), g.A.ID); err != nil || n != 1 {
			t.Errorf("%d left-overs swept, want the image, %v", n, err)
		}
	})
}

// TestS3Refusals: a store that is not there, or has no such bucket, is an error at the start.
func TestS3Refusals(t *testing.T) {
	t.Parallel()
	config, _ := store(t)
	config.Bucket = "missing"
	away := config
	away.Endpoint = "127.0.0.1:1"
	for name, c := range map[string]media.S3Config{"no bucket": config, "nobody there": away} {
		s, err := media.New(media.Options{Config: media.Config{Folder: t.TempDir(), S3: c}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := s.Start(ctx); err == nil || !strings.Contains(err.Error(), "media.s3") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := media.New(media.Options{Config: media.Config{S3: media.S3Config{Endpoint: "https://x/y"}}}); err == nil {
		t.Error("an endpoint that is no host was taken")
	}
}

// daemon is a ClamAV daemon that finds the word EICAR and knows no streams beyond 50,000 bytes.
func daemon(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, verdict(conn)+"\x00")
			}()
		}
	}()
	return l.Addr().String()
}

func verdict(conn io.Reader) string {
	command := make([]byte, len("zINSTREAM\x00"))
	if _, err := io.ReadFull(conn, command); err != nil || string(command) != "zINSTREAM\x00" {
		return "UNKNOWN COMMAND"
	}
	var content []byte
	for {
		var n uint32
		if err := binary.Read(conn, binary.BigEndian, &n); err != nil {
			return "broken"
		}
		if n == 0 {
			break
		}
		chunk := make([]byte, n)
		if _, err := io.ReadFull(conn, chunk); err != nil {
			return "broken"
		}
		if content = append(content, chunk...); len(content) > 50_000 {
			return "INSTREAM size limit exceeded. ERROR"
		}
	}
	if bytes.Contains(content, []byte("EICAR")) {
		return "stream: Win.Test.EICAR_HDB-1 FOUND"
	}
	return "stream: OK"
}

// TestScan: what a scanner finds is not kept, nor what it cannot look at; copies of other servers' files are scanned too.
func TestScan(t *testing.T) {
	address := daemon(t)
	each(t, func(o *media.Options) { o.Config.Clamd = address }, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		where := put(alice, "text/plain", "", []byte("harmless"))
		alice.Do("GET", client+"/download/"+where, nil).OK(nil)
		alice.Send("POST", upload, "text/plain", []byte("X5O!P%@AP EICAR")).Fails(403, "M_FORBIDDEN")
		alice.Send("POST", upload, "text/plain", bytes.Repeat([]byte("x"), 60_000)).Fails(413, "M_TOO_LARGE")
		if n := files(t, g.folder); n != 1 {
			t.Errorf("%d files, want the harmless one", n)
		}
	})
}

// TestNoScannerNoFiles: while the scanner does not answer nothing is taken.
func TestNoScannerNoFiles(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.Clamd = "127.0.0.1:1" }, func(t *testing.T, g *rig) {
		g.User(g.A, "alice").Send("POST", upload, "text/plain", []byte("harmless")).Fails(503, "M_UNKNOWN")
		if n := files(t, g.folder); n != 0 {
			t.Errorf("%d files", n)
		}
	})
}

// TestUserQuota: one user's files do not take the others' space.
func TestUserQuota(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.UserQuota = 1000 }, func(t *testing.T, g *rig) {
		alice, carol := g.User(g.A, "alice"), g.User(g.A, "carol")
		put(alice, "text/plain", "", bytes.Repeat([]byte("a"), 900))
		alice.Send("POST", upload, "text/plain", bytes.Repeat([]byte("b"), 200)).Fails(403, "M_FORBIDDEN")
		put(carol, "text/plain", "", bytes.Repeat([]byte("c"), 900))
	})
}

// TestMovingThumbnails: a GIF's thumbnail moves when it is asked to, and stands still otherwise or when there would be too much to move.
func TestMovingThumbnails(t *testing.T) {
	each(t, func(o *media.Options) { o.Config.MaxPixels = 1_000_000 }, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		moves := put(alice, "image/gif", "", gifOf(t, 400, 300, 4))
		get := func(where, query string) (string, int) {
			a := alice.Do("GET", client+"/thumbnail/"+where+"?width=96&height=96&method=scale"+query, nil).OK(nil)
			if a.Header.Get("Content-Type") != "image/gif" {
				return a.Header.Get("Content-Type"), 1
			}
			all, err := gif.DecodeAll(bytes.NewReader(a.Body))
			if err != nil || all.Image[0].Rect.Dx() > 96 {
				t.Fatalf("%v, %v", all, err)
			}
			return "image/gif", len(all.Image)
		}
		if kind, frames := get(moves, "&animated=true"); kind != "image/gif" || frames != 4 {
			t.Errorf("%s with %d frames", kind, frames)
		}
		if kind, _ := get(moves, ""); kind == "image/gif" {
			t.Error("it moves without being asked")
		}
		if kind, frames := get(put(alice, "image/gif", "", gifOf(t, 400, 300, 20)), "&animated=true"); frames != 1 {
			t.Errorf("twenty frames are more than the bound: %s", kind)
		}
		if kind, frames := get(put(alice, "image/gif", "", gifOf(t, 400, 300, 1)), "&animated=true"); frames != 1 {
			t.Errorf("a still: %s", kind)
		}
		alice.Do("GET", client+"/thumbnail/"+moves+"?width=96&height=96&animated=perhaps", nil).Fails(400, "M_INVALID_PARAM")
	})
}

func gifOf(t *testing.T, width, height, frames int) []byte {
	t.Helper()
	var all gif.GIF
	for i := range frames {
		p := image.NewPaletted(image.Rect(0, 0, width, height), color.Palette{color.White, color.Black, color.RGBA{R: uint8(i * 10), A: 255}})
		for x := range width {
			p.SetColorIndex(x, i*height/frames, 2)
		}
		all.Image, all.Delay = append(all.Image, p), append(all.Delay, 10)
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, &all); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
