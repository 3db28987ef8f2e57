// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

const (
	identityV2 = "/_matrix/identity/v2"
	// maxIdentityAnswer bounds an identity server's answer in bytes, maxInviteKeys the keys that may prove an invite.
	maxIdentityAnswer, maxInviteKeys = 256 << 10, 8
)

var _ room.IdentityServers = (*Service)(nil)

// newIdentityClient is the client for identity servers: plain HTTPS without delegation, under the same rules about addresses as federation.
func newIdentityClient(c *Config, r *resolver) *http.Client {
	return &http.Client{
		Timeout: c.RequestTimeout,
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				t := target{name: host, addrs: []string{address}}
				for _, name := range []id.Server{id.Server(host), id.Server(net.JoinHostPort(host, port))} {
					if o, ok := r.overrides[name]; ok {
						t.addrs, t.roots, t.trusted = []string{o.Address}, o.Roots, true
					}
				}
				return r.connect(ctx, t)
			},
			MaxIdleConns:           16,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Trusted says whether a client may name an identity server.
func (s *Service) Trusted(name string) error {
	if len(s.config.IdentityServers) == 0 {
		return mxerror.Forbidden.With("Invitations by e-mail or telephone number are not offered.")
	}
	server, err := id.ParseServer(name)
	if err != nil {
		return mxerror.InvalidParam.With("id_server is not a server name.")
	}
	if !slices.Contains(s.config.IdentityServers, server) && !slices.Contains(s.config.IdentityServers, "*") {
		return mxerror.ServerNotTrusted.With("The identity server %s is not trusted here.", server)
	}
	return nil
}

// identity sends a request to an identity server that the configuration trusts and decodes its answer.
func (s *Service) identity(ctx context.Context, p room.ThirdParty, method, path string, body, answer any) error {
	if err := s.Trusted(p.Server); err != nil {
		return err
	}
	server := id.Server(p.Server)
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+string(server)+identityV2+path, in)
	if err != nil {
		return mxerror.InvalidParam.With("id_server is not a server name.")
	}
	req.Header.Set("Authorization", "Bearer "+p.Token)
	req.Header.Set("User-Agent", s.http.agent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.identityClient.Do(req)
	if err != nil {
		return unreachable(ctx, server, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxIdentityAnswer+1))
	switch {
	case err != nil:
		return unreachable(ctx, server, err)
	case len(raw) > maxIdentityAnswer:
		return unreachable(ctx, server, errAnswerTooLarge)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return mxerror.Forbidden.With("The identity server %s refused the request (status %d).", server, resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return &refusedIdentity{resp.StatusCode, mxerror.ConnectionFailed.With("The identity server %s answered with status %d.", server, resp.StatusCode)}
	}
	if err := json.Unmarshal(raw, answer, decodeOptions); err != nil {
		return malformed(server, err)
	}
	return nil
}

// refusedIdentity is an identity server's answer with another status than 200.
type refusedIdentity struct {
	status int
	reason *mxerror.Error
}

func (r *refusedIdentity) Error() string { return r.reason.Message }
func (r *refusedIdentity) Unwrap() error { return r.reason }

// FindUser asks an identity server who has an address. The address goes there as a hash where the server allows that (identity service API,
// "Association lookup").
func (s *Service) FindUser(ctx context.Context, p room.ThirdParty) (id.User, error) {
	var details struct {
		Pepper     string   `json:"lookup_pepper"`
		Algorithms []string `json:"algorithms"`
	}
	if err := s.identity(ctx, p, http.MethodGet, "/hash_details", nil, &details); err != nil {
		return "", err
	}
	var algorithm, address string
	switch {
	case slices.Contains(details.Algorithms, "sha256"):
		sum := sha256.Sum256([]byte(strings.Join([]string{p.Address, p.Medium, details.Pepper}, " ")))
		algorithm, address = "sha256", base64.RawURLEncoding.EncodeToString(sum[:])
	case slices.Contains(details.Algorithms, "none"):
		algorithm, address = "none", p.Address+" "+p.Medium
	default:
		return "", malformed(id.Server(p.Server), errors.New("it offers no known algorithm for look-ups"))
	}
	var found struct {
		Mappings map[string]string `json:"mappings"`
	}
	err := s.identity(ctx, p, http.MethodPost, "/lookup", map[string]any{"addresses": []string{address}, "algorithm": algorithm, "pepper": details.Pepper}, &found)
	if err != nil || found.Mappings[address] == "" {
		return "", err
	}
	user, err := id.ParseUser(found.Mappings[address])
	if err != nil {
		return "", malformed(id.Server(p.Server), err)
	}
	return user, nil
}

// StoreInvite leaves an invite with an identity server until somebody proves to own its address.
func (s *Service) StoreInvite(ctx context.Context, p room.PendingInvite) (*room.StoredInvite, error) {
	body := map[string]any{"medium": p.Medium, "address": p.Address, "room_id": p.Room.RoomID, "sender": p.Sender}
	for name, value := range map[string]string{"room_alias": string(p.Room.CanonicalAlias), "room_avatar_url": p.Room.AvatarURL, "room_name": p.Room.Name,
		"room_type": p.Room.RoomType, "room_join_rules": p.Room.JoinRule, "sender_display_name": p.SenderName, "sender_avatar_url": p.SenderAvatarURL} {
		if value != "" {
			body[name] = value
		}
	}
	var doc struct {
		Token       string           `json:"token"`
		DisplayName string           `json:"display_name"`
		Keys        []room.InviteKey `json:"public_keys"`
	}
	if err := s.identity(ctx, p.ThirdParty, http.MethodPost, "/store-invite", body, &doc); err != nil {
		return nil, err
	}
	if doc.Token == "" || len(doc.Token) > 255 || len(doc.Keys) == 0 || len(doc.Keys) > maxInviteKeys {
		return nil, malformed(id.Server(p.Server), errors.New("it has no token, or no keys"))
	}
	for _, k := range doc.Keys {
		if _, err := signing.DecodePublicKey(k.Public); err != nil {
			return nil, malformed(id.Server(p.Server), fmt.Errorf("public key: %w", err))
		}
	}
	return &room.StoredInvite{Token: doc.Token, DisplayName: doc.DisplayName, Keys: doc.Keys}, nil
}
