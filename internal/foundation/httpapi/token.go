// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// The kinds of tokens. All have one form, "k<kind>_<tenant in base 36>_<256 random bits>": the prefix finds the tenant on a shared client host
// (engine rule 19) and proves nothing; the token is then looked up within that tenant.
const (
	AccessToken  = 't'
	RefreshToken = 'r'
	LoginToken   = 'l'
	OpenIDToken  = 'o'
)

// NewToken draws a token of the kind. Only its hash is ever stored.
func NewToken(kind byte, t tenant.ID) string {
	var b [32]byte
	rand.Read(b[:])
	return "k" + string(kind) + "_" + strconv.FormatInt(int64(t), 36) + "_" + base64.RawURLEncoding.EncodeToString(b[:])
}

// TokenTenant returns the tenant that a token of any kind names.
func TokenTenant(token string) (tenant.ID, bool) {
	if len(token) < 3 || token[0] != 'k' || token[2] != '_' {
		return 0, false
	}
	name, _, ok := strings.Cut(token[3:], "_")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(name, 36, 64)
	if err != nil || n <= 0 {
		return 0, false
	}
	return tenant.ID(n), true
}

// token returns the access token of a request: the Authorization header, else the query parameter that older clients use.
func token(r *http.Request) string {
	if scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(value)
	}
	if !strings.Contains(r.URL.RawQuery, "access_token") {
		return ""
	}
	return r.URL.Query().Get("access_token")
}

// Token is the bearer token that came with the request, empty without one. Routes whose tokens are no access tokens look at it themselves.
func (r *Request) Token() string { return token(r.HTTP) }
