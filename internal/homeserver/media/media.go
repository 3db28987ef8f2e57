// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Config is the part of the configuration that media reads. Sizes are bytes; zero values take the defaults.
type Config struct {
	// Folder is where the content lies, or with S3 what is arriving.
	Folder string
	// S3 keeps the content in a bucket instead.
	S3 S3Config
	// Clamd is the address of a ClamAV daemon, host:port or unix:/path, that has to find what comes in clean; empty lets everything in.
	Clamd string
	// MaxUpload bounds one file (100 MiB), the tenant's own and fetched ones.
	MaxUpload int64
	// TenantQuota bounds what a tenant's own media take (10 GiB), RemoteCache the copies of other servers' (5 GiB).
	TenantQuota, RemoteCache int64
	// UserQuota bounds what one user's media take; 0 sets no such bound.
	UserQuota int64
	// MaxPixels bounds the images of which thumbnails are made (50 million).
	MaxPixels int64
	// Legacy lets the unauthenticated endpoints serve what is uploaded or fetched from now on. What was stored while it was on stays served.
	Legacy bool
	// PendingLife is how long an announced upload may take to come (24 h), MaxPending how many a user may have announced at once (50).
	PendingLife time.Duration
	MaxPending  int
	// Preview says whether links are previewed.
	Preview PreviewConfig
}

// Remote fetches from other servers. It sends a signed GET and bounds the answer; package federation implements it.
type Remote interface {
	Get(ctx context.Context, t *tenant.Tenant, server id.Server, path string, query url.Values, maxBytes int64) (http.Header, io.ReadCloser, error)
}

// Options joins the service with the rest of the house.
type Options struct {
	DB     *database.DB
	Policy policy.Policy
	Config Config
	// Remote reaches other servers; nil answers M_NOT_FOUND for their media.
	Remote Remote
	Log    *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Service is the media slice of a node. It is safe for concurrent use.
type Service struct {
	o     Options
	c     Config
	db    *database.DB
	blobs blobs
	// previews is nil when none are made.
	previews *previewer

	fetches    singleflight.Group
	thumbnails singleflight.Group
	// pixels bounds the images that are decoded at once: they are what takes memory.
	pixels *semaphore.Weighted

	work *background.Work

	mu sync.Mutex
	// arrivals are the announced uploads that somebody waits for.
	arrivals map[mediaKey]*arrival
}

type mediaKey struct {
	tenant tenant.ID
	id     string
}

// New returns the service. Close ends fetches that are under way. An error means that the S3 store's settings make no sense.
func New(o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := o.Config
	set(&c.MaxUpload, 100<<20)
	set(&c.TenantQuota, 10<<30)
	set(&c.RemoteCache, 5<<30)
	set(&c.MaxPixels, 50_000_000)
	set(&c.PendingLife, 24*time.Hour)
	set(&c.MaxPending, 50)
	s := &Service{o: o, c: c, db: o.DB, blobs: blobs{storage: folder(c.Folder), incoming: filepath.Join(c.Folder, "incoming")}, pixels: semaphore.NewWeighted(c.MaxPixels), arrivals: map[mediaKey]*arrival{}, work: background.New()}
	if c.S3.Endpoint != "" {
		b, err := newBucket(c.S3)
		if err != nil {
			return nil, err
		}
		s.blobs.storage = b
	}
	if c.Clamd != "" {
		s.blobs.scan = newClamd(c.Clamd).scan
	}
	if c.Preview.Enabled {
		s.previews = newPreviewer(c.Preview)
	}
	return s, nil
}

// Start makes sure that content can be stored and begins to look for what is left over. An error says what is wrong with the S3 store.
func (s *Service) Start(ctx context.Context) error {
	if b, ok := s.blobs.storage.(*bucket); ok {
		if err := b.check(ctx); err != nil {
			return err
		}
	}
	if err := s.blobs.clear(); err != nil {
		s.o.Log.WarnContext(ctx, "files that were arriving are left", "error", err)
	}
	s.work.Every(sweepEvery, s.o.Log, "left-over media could not be looked for", s.sweepRound)
	return nil
}

// Close ends fetches that are under way, and what Start began.
func (s *Service) Close() {
	s.work.Close()
}

func set[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (s *Service) now() int64 { return s.o.Now().UnixMilli() }

// item is a row of media.
type item struct {
	origin      string
	id          string
	user        id.User
	hash        string // names the blob; empty while an announced upload has not come
	size        int64
	contentType string
	fileName    string
	legacy      bool
	expires     int64 // ms; of an announced upload
}

// mediaID is the grammar of media ids (client-server API, "Content repository").
var mediaID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,255}$`)

var errNotFound = mxerror.NotFound.With("there is no such media")

const selectItem = "SELECT origin, media_id, user_id, hash, size, content_type, file_name, legacy, expires FROM media WHERE tenant = $1 AND origin = $2 AND media_id = $3"

// find reads a row. origin is empty for the tenant's own.
func (s *Service) find(ctx context.Context, t tenant.ID, origin, media string) (*item, error) {
	if err := s.inSight(ctx, t, origin, media); err != nil {
		return nil, err
	}
	var m item
	err := s.db.QueryRow(ctx, selectItem, int64(t), origin, media).
		Scan(&m.origin, &m.id, &m.user, &m.hash, &m.size, &m.contentType, &m.fileName, &m.legacy, &m.expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	if m.hash == "" && m.expires <= s.now() {
		return nil, errNotFound
	}
	return &m, nil
}

// newMediaID draws an id that cannot be guessed: on servers that serve without a token it is all that protects the content.
func newMediaID() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	b := make([]byte, 24)
	rand.Read(b)
	for i := range b {
		b[i] = alphabet[b[i]&63]
	}
	return string(b)
}
