// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

const bridge = `
id: bridge
url: http://127.0.0.1:9000
as_token: secret-as
hs_token: secret-hs
sender_localpart: bridgebot
rate_limited: false
de.sorunome.msc2409.push_ephemeral: true
namespaces:
  users:
    - {exclusive: true, regex: "@bridge_.*:hs1"}
  aliases: []
`

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"bridge.yaml": bridge, "README": "not one",
		"other.yml": strings.NewReplacer("id: bridge", "id: other", "secret-as", "secret-2", "rate_limited: false", "server_name: hs2").Replace(bridge)})
	r, err := Load(dir, "hs1")
	if err != nil {
		t.Fatal(err)
	}
	hs1, hs2 := &tenant.Tenant{Name: "hs1"}, &tenant.Tenant{Name: "hs2"}
	as, ok := r.ByToken(t.Context(), hs1, "secret-as")
	if !ok || as.ID != "bridge" || as.Sender != "@bridgebot:hs1" || !as.Unlimited || !as.Owns("@bridge_x:hs1") || as.Owns("@human:hs1") {
		t.Errorf("%+v", as)
	}
	if _, ok := r.ByToken(t.Context(), hs2, "secret-as"); ok {
		t.Error("a token is valid for another tenant")
	}
	if as, ok := r.ByToken(t.Context(), hs2, "secret-2"); !ok || as.Unlimited {
		t.Errorf("%+v", as)
	}
	if _, ok := r.ByID(t.Context(), hs1, "other"); ok {
		t.Error("an id is known to another tenant")
	}
	if list := r.of("hs1"); len(list) != 1 || list[0].ID != "bridge" || !list[0].PushEphemeral || list[0].url == nil {
		t.Error(list)
	}
	if empty, err := Load("", ""); err != nil || len(empty.byID) != 0 {
		t.Error(err)
	}
}

func TestMistakesNameTheFile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"id: [": "line 1",
		"id: x": "as_token is missing",
		strings.ReplaceAll(bridge, `"@bridge_.*:hs1"`, `"["`):             "namespaces.users",
		strings.ReplaceAll(bridge, "bridgebot", "a:b"):                    "sender_localpart",
		strings.ReplaceAll(bridge, "rate_limited", "server_name: a b\nx"): "server_name",
	} {
		_, err := Load(write(t, map[string]string{"x.yaml": text}), "hs1")
		if err == nil || !strings.Contains(err.Error(), "x.yaml: "+want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := Load(write(t, map[string]string{"a.yaml": bridge}), ""); err == nil || !strings.Contains(err.Error(), "several servers") {
		t.Error(err)
	}
	if _, err := Load(write(t, map[string]string{"a.yaml": bridge, "b.yaml": bridge}), "hs1"); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Error(err)
	}
}
