// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
)

// TURNConfig names the relays for calls. Without addresses clients are told none.
type TURNConfig struct {
	URIs []string
	// Secret is shared with the relays.
	Secret string
	// Lifetime is how long a name and password are valid.
	Lifetime time.Duration
}

type turnReply struct {
	Username string   `json:"username"`
	Password string   `json:"password"`
	URIs     []string `json:"uris"`
	TTL      int64    `json:"ttl"` // seconds
}

// turnServer gives time-limited credentials for the relays: the name begins with the second at which it expires, the password is its HMAC, so that
// the relays need no list of users (the REST API for access to TURN services that relays speak; HMAC-SHA1 is what it prescribes).
func (s *Service) turnServer(_ context.Context, r *httpapi.Request) (any, error) {
	c := s.o.Config.TURN
	if len(c.URIs) == 0 {
		return nil, nil
	}
	name := fmt.Sprintf("%d:%s", s.o.Now().Add(c.Lifetime).Unix(), r.Session.User)
	mac := hmac.New(sha1.New, []byte(c.Secret))
	mac.Write([]byte(name))
	return turnReply{name, base64.StdEncoding.EncodeToString(mac.Sum(nil)), c.URIs, int64(c.Lifetime.Seconds())}, nil
}
