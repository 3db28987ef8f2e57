// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/server"
)

// TestProxyRole boots plain Konsil and, from a configuration file as `konsil proxy` does, the proxy in front of it, with the federation list of the
// country's central services.
//
// Requirements: AF_10064-02, A_25534.
func TestProxyRole(t *testing.T) {
	t.Parallel()
	c := newCountry(t, [3]string{})
	for i, p := range practices {
		name := string(rune('a' + i))
		status, answer := c.ask(http.MethodPost, c.central+"/tim-provider-services/federation", map[string]string{"Authorization": "Bearer " + tokenOfProvider(name)},
			map[string]any{"domain": practiceNames[i], "telematikID": p.TelematikID, "isInsurance": false})
		if status != http.StatusOK && status != http.StatusCreated {
			t.Fatalf("%s: %d %v", practiceNames[i], status, answer)
		}
	}
	var open [3]net.Listener // behind, and the proxy for clients and for servers
	for i := range open {
		var err error
		if open[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	behind, front, federation := open[0].Addr().String(), open[1].Addr().String(), open[2].Addr().String()
	c.boot("behind", fmt.Sprintf("policy: open\ntenants: [%s]\nlisteners: {client: [%q]}\nregistration: {mode: open}\nrate_limits: false\n", practiceNames[1], behind),
		server.Options{Client: open[:1]})
	cards := filepath.Join(c.folder, "cards")
	node := c.boot("proxy", fmt.Sprintf(`roles: [proxy]
tenants: [%s]
listeners:
  client: [%q]
  federation: [{address: %q, plain: true}]
telematik:
  federation_list: "%s/tim-provider-services/FederationList/federationList.jws"
  list_roots: [%q, %q]
  provider_token: %s
proxy: {homeserver: "http://%s", outbound: "127.0.0.1:0"}
`+c.resolve, practiceNames[1], front, federation, c.central, filepath.Join(cards, "root-ca.pem"), filepath.Join(cards, "komp-ca.pem"), tokenOfProvider("b"), behind),
		server.Options{Client: open[1:2], Federation: open[2:3]})

	people := map[string]*citizen{}
	for _, name := range []string{"berta", "bert"} {
		status, made := c.ask(http.MethodPost, "http://"+behind+"/_matrix/client/v3/register", nil,
			map[string]any{"username": name, "password": "a long test passphrase", "auth": map[string]any{"type": "m.login.dummy"}})
		if status != 200 {
			t.Fatalf("register: %d %v", status, made)
		}
		people[name] = &citizen{country: c, user: made["user_id"].(string), token: made["access_token"].(string)}
	}
	c.clients[0] = front
	berta, bert := people["berta"], people["bert"]
	room := berta.do(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat"}, 200)["room_id"].(string)
	invite := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/invite"
	if e := berta.do(http.MethodPost, invite, map[string]any{"user_id": "@x:fremd.example.org"}, 403); e["errcode"] != "M_FORBIDDEN" {
		t.Errorf("a server outside the list: %v", e)
	}
	config := "/_matrix/client/v3/user/" + url.PathEscape(bert.user) + "/account_data/de.gematik.tim.account.permissionconfig.pro.v1"
	bert.do(http.MethodPut, config, map[string]any{"defaultSetting": "block all"}, 200)
	berta.do(http.MethodPost, invite, map[string]any{"user_id": bert.user}, 403)
	bert.do(http.MethodPut, config, map[string]any{"defaultSetting": "allow all"}, 200)
	berta.do(http.MethodPost, invite, map[string]any{"user_id": bert.user}, 200)

	// I_TiMessengerInformation is the proxy's own, for who proves to be a user of the homeserver behind.
	openID := berta.do(http.MethodPost, "/_matrix/client/v3/user/"+url.PathEscape(berta.user)+"/openid/request_token", map[string]any{}, 200)["access_token"].(string)
	for token, want := range map[string]int{openID: 200, "nobody's": 401} {
		status, answer := c.ask(http.MethodGet, "http://"+front+"/tim-information/v1/server/isInsurance?serverName="+string(practiceNames[0]), map[string]string{"Authorization": "Bearer " + token}, nil)
		if status != want || status == 200 && answer["isInsurance"] != false {
			t.Errorf("isInsurance: %d %v, want %d", status, answer, want)
		}
	}

	// Other servers: a member's request reaches the homeserver, which finds its signature wrong; a stranger's does not.
	for origin, want := range map[string]string{string(practiceNames[0]): "401 M_UNAUTHORIZED", "fremd.example.org": "403 M_FORBIDDEN"} {
		status, answer := c.ask(http.MethodGet, "http://"+federation+"/_matrix/federation/v1/event/$x",
			map[string]string{"Authorization": fmt.Sprintf("X-Matrix origin=%s,destination=%s,key=\"ed25519:1\",sig=\"AAAA\"", origin, practiceNames[1])}, nil)
		if got := fmt.Sprintf("%d %v", status, answer["errcode"]); got != want {
			t.Errorf("%s: %s %v, want %s", origin, got, answer, want)
		}
	}
	c.outbound(node, filepath.Join(c.folder, "proxy", "proxy-ca", "ca.pem"))
}

// outbound asks two servers for their keys by the forward proxy, as the homeserver does: a member, which answers, and a stranger.
func (c *country) outbound(node *server.Server, ca string) {
	c.Helper()
	text, err := os.ReadFile(ca)
	if err != nil {
		c.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: node.OutboundAddress()}), TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	for host, refused := range map[string]bool{string(practiceNames[0]): false, "fremd.example.org": true} {
		res, err := (&http.Client{Transport: transport}).Get("https://" + host + ":8448/_matrix/key/v2/server")
		if err != nil {
			c.Fatal(err)
		}
		answer, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || strings.Contains(string(answer), "The proxy lets nobody ask this.") != refused || refused && res.StatusCode != http.StatusNotFound || res.StatusCode == http.StatusBadGateway {
			c.Errorf("%s: %d %s %v", host, res.StatusCode, answer, err)
		}
	}
}
