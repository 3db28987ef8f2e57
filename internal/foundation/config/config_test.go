// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func load(text string, more ...string) (*Config, error) {
	s := Source{Text: []byte(text), Environ: []string{}}
	for _, m := range more {
		if strings.HasPrefix(m, "KONSIL_") {
			s.Environ = append(s.Environ, m)
		} else {
			s.Flags = append(s.Flags, m)
		}
	}
	return Load(s)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := load("data: /srv/konsil")
	if err != nil {
		t.Fatal(err)
	}
	if c.Policy != PolicyTI || c.Registration.Mode != RegistrationClosed || !c.RateLimits || c.PrivateAddresses || !c.Presence || c.Guests ||
		c.Federation.Retry != (Retry{time.Second, 2, time.Hour}) || c.Media.MaxUpload != 100<<20 || len(c.SharedClientHosts) != 3 ||
		c.Database.URL != "sqlite:/srv/konsil/konsil.db" || c.Media.Folder != "/srv/konsil/media" || c.MasterKey.File != "/srv/konsil/master.key" ||
		len(c.Listeners.Client) != 1 || c.Listeners.Client[0].Address != "127.0.0.1:8008" || !c.HasRole(RoleHomeserver) || c.HasRole(RoleDirectory) {
		t.Errorf("%+v", c)
	}
}

func TestPlainMatrix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pem := filepath.Join(dir, "x.pem")
	if err := os.WriteFile(pem, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(`
policy: open
tenants:
  - hs1
  - {name: "hs2.example:8448", display_name: Two, client_hosts: [c.example]}
listeners:
  client: [":8008", {address: "127.0.0.1:0"}]
  federation: [{address: ":8448", certificate: ` + pem + `, key: ` + pem + `}]
registration: {mode: shared_secret, secret: 12345}
app_services: ` + dir + `
rate_limits: false
federation:
  resolve:
    praxis.localhost: 127.0.0.1:8449
    hs3: {address: "127.0.0.1:8450", ca: ` + pem + `}
  retry: {first: 250ms, max: 5s}
rooms: {default_version: "11"}
media: {max_upload: 1GB}
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Tenants[0].Name != "hs1" || c.Tenants[1].Name != "hs2.example:8448" || c.Tenants[1].ClientHosts[0] != "c.example" || c.SoleTenant() != "" {
		t.Errorf("tenants %+v", c.Tenants)
	}
	if c.Federation.Resolve["praxis.localhost"].Address != "127.0.0.1:8449" || c.Federation.Resolve["hs3"].CA != pem {
		t.Errorf("resolve %+v", c.Federation.Resolve)
	}
	if c.Registration.Secret != "12345" || c.Media.MaxUpload != 1e9 || c.RateLimits || c.Federation.Retry.First != 250*time.Millisecond {
		t.Errorf("%+v", c)
	}
}

func TestLaterSourcesWin(t *testing.T) {
	t.Parallel()
	c, err := load("policy: ti\ntenants: [a]\nregistration: {mode: closed}\nfederation: {timeout: 5s}",
		"KONSIL_POLICY=open", "KONSIL_TENANTS=b, c", "KONSIL_FEDERATION_TIMEOUT=6s", "KONSIL_REGISTRATION_MODE=shared_secret", "KONSIL_REGISTRATION_SECRET=0123",
		"KONSIL_LISTENERS_CLIENT=[{address: ':1'}]", `KONSIL_FEDERATION_RESOLVE={x.example: "127.0.0.1:1"}`, "KONSIL_POLICYY=x", "KONSIL_TEST_POSTGRES=x",
		"tenants=d", "federation.timeout=7s")
	if err != nil {
		t.Fatal(err)
	}
	if c.Policy != "open" || len(c.Tenants) != 1 || c.SoleTenant() != "d" || c.Federation.Timeout != 7*time.Second || c.Registration.Secret != "0123" ||
		c.Listeners.Client[0].Address != ":1" || c.Federation.Resolve["x.example"].Address != "127.0.0.1:1" {
		t.Errorf("%+v", c)
	}
	if !reflect.DeepEqual(c.Ignored, []string{"KONSIL_POLICYY"}) {
		t.Errorf("ignored %v", c.Ignored)
	}
}

func TestErrorsNameKeyAndLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, want string
		more       []string
	}{
		{text: "policy: closed", want: "konsil.yaml:1: policy: \"closed\" is none of ti, open"},
		{text: "roles:\n  - homeserver\n  - directory", want: "central.url: the central services name themselves by it"},
		{text: "roles: [federation_list]\ncentral: {url: 'http://a'}\nlisteners: {central: [':1']}", want: "central.providers: role federation_list needs"},
		{text: "roles: [directory]\ncentral: {url: 'http://a'}\nlisteners: {central: [':1']}", want: "telematik.federation_list: role directory asks"},
		{text: "environment: production\nroles: [federation_list]", want: "central.signers: production signs"},
		{text: "environment: production\nroles: [directory]", want: "telematik.card_roots: production needs"},
		{text: "central:\n  providers:\n    - {name: a, token: short}", want: "konsil.yaml:3: central.providers[0].token: must have at least 16"},
		{text: "central: {url: nowhere}", want: "konsil.yaml:1: central.url: \"nowhere\" is no http"},
		{text: "policy: open\nroles: [homeserver, registration]", want: "roles: role registration is only for policy ti"},
		{text: "telematik: {permission_check: nobody}", want: "konsil.yaml:1: telematik.permission_check: \"nobody\" is none of server, client"},
		{text: "telematik:\n  permission_check: client\n  contact_management: true", want: "konsil.yaml:3: telematik.contact_management: has no effect without"},
		{text: "policy: open\ntelematik: {contact_management: true}", want: "konsil.yaml:2: telematik.contact_management: has no effect without"},
		{text: "roles: [proxy]\ntelematik: {contact_management: true}", want: "konsil.yaml:2: telematik.contact_management: has no effect without role homeserver"},
		{text: "roles: [proxy]", want: "proxy.homeserver: role proxy needs"},
		{text: "roles: [proxy]\nproxy: {homeserver: 'http://a'}", want: "tenants: role proxy needs"},
		{text: "roles: [proxy]\nproxy: {homeserver: 'http://a'}\ntenants: [a]", want: "telematik.federation_list: role proxy lets"},
		{text: "roles: [proxy, homeserver]", want: "roles: role proxy stands alone"},
		{text: "policy: open\nroles: [proxy]", want: "roles: role proxy is only for policy ti"},
		{text: "proxy: {homeserver: 'http://a'}", want: "konsil.yaml:1: proxy: has a meaning for role proxy only"},
		{text: "proxy: {homeserver: 'http://a/b'}", want: "proxy.homeserver: \"http://a/b\" must be an address without path"},
		{text: "proxy:\n  push_gateways:\n    - http://push.example/_matrix/push/v1/notify", want: "konsil.yaml:3: proxy.push_gateways[0]"},
		{text: "proxy: {outbound: ':1', sso_hosts: ['https://idp.example']}", want: "proxy.sso_hosts[0]: \"https://idp.example\" is no host"},
		{text: "proxy: {sso_hosts: [idp.example]}", want: "proxy.outbound: missing, although"},
		{text: "proxy: {outbound: '8.8.8.8:1'}", want: "proxy.outbound: \"8.8.8.8:1\" is a public address"},
		{text: "\npolcy: open", want: "konsil.yaml:2: unknown key polcy"},
		{text: "policy: open\nfederation:\n  timeot: 5s", want: "konsil.yaml:3: unknown key federation.timeot"},
		{text: "\nresolve: {}", want: "konsil.yaml:2: unknown key resolve (did you mean federation.resolve?)"},
		{text: "tenants:\n  - a\n  - name: 'b c'", want: "konsil.yaml:3: tenants[1].name"},
		{text: "tenants:\n  - a\n  - a", want: "konsil.yaml:3: tenants[1].name: a is there twice"},
		{text: "tenants:\n  - nam: b", want: "konsil.yaml:2: unknown key tenants[0].nam"},
		{text: "tenants:\n  - name: a\n    identity_provider: {issuer: 'http://idp.example'}", want: "konsil.yaml:3: tenants[0].identity_provider.issuer: \"http://idp.example\" is no https address"},
		{text: "tenants:\n  - name: a\n    policy_server: {servers: ['*'], lists: [list]}", want: "tenants[0].policy_server.lists[0]: \"list\" is no room id"},
		{text: "tenants:\n  - name: a\n    identity_provider: {issuer: 'https://idp.example'}", want: "tenants[0].identity_provider.client_id: missing"},
		{text: "tenants: hs1", want: "konsil.yaml:1: tenants: expected a list, got hs1"},
		{text: "registration: open", want: "konsil.yaml:1: registration: expected keys and values, got open"},
		{text: "federation:\n  retry:\n    max: soon", want: "konsil.yaml:3: federation.retry.max: expected a duration"},
		{text: "federation:\n  resolve:\n    hs1: nowhere", want: "konsil.yaml:3: federation.resolve.hs1.address: \"nowhere\" is no address"},
		{text: "rate_limits: maybe", want: "konsil.yaml:1: rate_limits: expected true or false, got \"maybe\""},
		{text: "database: {readers: many}", want: "database.readers: expected a whole number, got \"many\""},
		{text: "database: {url: 'mysql://x'}", want: "konsil.yaml:1: database.url: expected sqlite:"},
		{text: "media:\n  max_upload: big", want: "konsil.yaml:2: media.max_upload: \"big\" is no size"},
		{text: "policy: open\nlisteners:\n  federation: [':8448']", want: "konsil.yaml:3: listeners.federation[0]: needs certificate and key"},
		{text: "listeners:\n  client:\n    - address: '8008'", want: "konsil.yaml:3: listeners.client[0].address: \"8008\" is no address"},
		{text: "environment: production", want: "konsil.yaml: master_key.file: production needs a master key"},
		{text: "master_key: {value: c2hvcnQ=}", want: "konsil.yaml:1: master_key.value: must be 32 bytes"},
		{text: "policy: open\nregistration:\n  mode: shared_secret", want: "konsil.yaml:2: registration.secret"},
		{text: "registration:\n  mode: open", want: "konsil.yaml:2: registration.mode: under policy ti"},
		{text: "second_factor: maybe", want: "konsil.yaml:1: second_factor"},
		{text: "environment: production\nsecond_factor: off", want: "konsil.yaml:2: second_factor: production under policy ti"},
		{text: "second_factor: required\ntenants:\n  - name: praxis.example\n    identity_provider: {issuer: 'https://login.example', client_id: k}",
			want: "tenants[0].identity_provider.require_acr: a second factor is required"},
		{text: "rooms: {default_version: '99'}", want: "konsil.yaml:1: rooms.default_version: unknown room version"},
		{text: "ca:\n - /nowhere.pem", want: "konsil.yaml:2: ca[0]: open /nowhere.pem"},
		{text: "trusted_proxies: [me]", want: "konsil.yaml:1: trusted_proxies[0]"},
		{text: "a: [", want: "konsil.yaml: line 1"},
		{text: "- a", want: "konsil.yaml:1: expected keys and values"},
		{more: []string{"KONSIL_POLICY=x"}, want: "KONSIL_POLICY: policy: \"x\" is none of"},
		{more: []string{"policy=x"}, want: "--set policy: policy: \"x\" is none of"},
		{more: []string{"polcy=x"}, want: "--set polcy=x: unknown key polcy"},
		{more: []string{"policy"}, want: "expected KEY=VALUE"},
		{more: []string{"KONSIL_TENANTS=[a"}, want: "KONSIL_TENANTS: tenants: no YAML"},
	} {
		s := Source{File: "konsil.yaml", Text: []byte(c.text), Environ: []string{}}
		for _, m := range c.more {
			if strings.HasPrefix(m, "KONSIL_") {
				s.Environ = append(s.Environ, m)
			} else {
				s.Flags = append(s.Flags, m)
			}
		}
		if _, err := Load(s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %v:\n got %v\nwant %s", c.text, c.more, err, c.want)
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, err := load("environment: x\npolicy: y\nlogging: {level: z}")
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("want three lines, got %v", err)
	}
}

// TestTableMatchesFields holds the table of keys equal to the fields of Config.
func TestTableMatchesFields(t *testing.T) {
	t.Parallel()
	fields := map[string]bool{}
	var walk func(v reflect.Type, path string)
	walk = func(v reflect.Type, path string) {
		for i := range v.NumField() {
			f := v.Field(i)
			name := f.Tag.Get("key")
			if name == "-" {
				continue
			}
			p := join(path, name)
			switch {
			case f.Type.Kind() == reflect.Struct:
				walk(f.Type, p)
				continue
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
				walk(f.Type.Elem(), p+"[]")
			case f.Type.Kind() == reflect.Map:
				walk(f.Type.Elem(), p+".*")
			}
			fields[p] = true
		}
	}
	walk(reflect.TypeFor[Config](), "")
	variables := map[string]string{}
	for _, k := range keys {
		if !fields[k.Path] {
			t.Errorf("%s is in the table but no field", k.Path)
		}
		delete(fields, k.Path)
		if k.Doc == "" {
			t.Errorf("%s is not explained", k.Path)
		}
		if k.settable() {
			if other := variables[Variable(k.Path)]; other != "" {
				t.Errorf("%s and %s have the same variable", k.Path, other)
			}
			variables[Variable(k.Path)] = k.Path
		}
	}
	for f := range fields {
		t.Errorf("%s is a field but not in the table", f)
	}
}

// TestDocumentIsCurrent fails when docs/configuration.md was not written again ("make docs").
func TestDocumentIsCurrent(t *testing.T) {
	t.Parallel()
	file := filepath.Join("..", "..", "..", "docs", "configuration.md")
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Markdown()) {
		t.Error("docs/configuration.md is not current: run make docs")
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Size{"0": 0, "512": 512, "10kB": 10_000, "1 MiB": 1 << 20, "3GiB": 3 << 30, "7B": 7} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %d %v", text, s, err)
		}
	}
	for _, bad := range []string{"", "-1", "1.5MiB", "MiB", "9999999TiB", "x"} {
		var s Size
		if err := s.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %d", bad, s)
		}
	}
	if s := Size(50<<20).String() + " " + Size(1000).String(); s != "50MiB 1000" {
		t.Error(s)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("policy: open\ntenants: [{name: a}]\nfederation: {resolve: {a: b}}")
	f.Add("listeners: {client: [{address: 1}]}")
	f.Add("tenants: &x [*x]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := load(text)
		if (c == nil) == (err == nil) {
			t.Error("neither a configuration nor an error, or both")
		}
	})
}

// TestSecondFactor says where a password alone lets nobody in.
func TestSecondFactor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config Config
		want   bool
	}{
		"TI in production":          {Config{Policy: PolicyTI, Environment: Production}, true},
		"TI in development":         {Config{Policy: PolicyTI, Environment: Development}, true},
		"TI in a test network":      {Config{Policy: PolicyTI, Environment: Demo, SecondFactor: SecondFactorOff}, false},
		"the same where wished":     {Config{Policy: PolicyTI, Environment: Demo, SecondFactor: SecondFactorRequired}, true},
		"plain Matrix":              {Config{Policy: PolicyOpen, Environment: Production}, false},
		"plain Matrix where wished": {Config{Policy: PolicyOpen, Environment: Production, SecondFactor: SecondFactorRequired}, true},
	} {
		if got := c.config.NeedsSecondFactor(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
