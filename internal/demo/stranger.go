// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// StrangerKnocks sends a server of the network a signed federation request of a server that is not on the list, and returns the status of the answer.
func (n *Network) StrangerKnocks(ctx context.Context, to id.Server) (int, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return 0, err
	}
	const path, key = "/_matrix/federation/v1/query/profile?user_id=%40x%3Ay", id.KeyID("ed25519:fremd")
	request, err := canonicaljson.Marshal(map[string]any{"method": "GET", "uri": path, "origin": Stranger, "destination": to})
	if err != nil {
		return 0, err
	}
	signed, err := signing.SignJSON(request, string(Stranger), key, private)
	if err != nil {
		return 0, err
	}
	var body struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := httpapi.DecodeJSON(signed, &body); err != nil {
		return 0, err
	}
	address, ok := n.address(to)
	if !ok {
		return 0, fmt.Errorf("%s has no address in this network", to)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		return 0, err
	}
	req.Host = string(to)
	req.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, Stranger, to, key, body.Signatures[string(Stranger)][string(key)]))
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: n.authority.Pool(), ServerName: to.Host(), MinVersion: tls.VersionTLS12}}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
