// SPDX-License-Identifier: Apache-2.0

package jose_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/jose"
)

func brainpoolKey(t testing.TB) *brainpool.PrivateKey {
	t.Helper()
	k, err := brainpool.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func p256Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	bp, p := brainpoolKey(t), p256Key(t)
	for _, c := range []struct {
		signer jose.Signer
		key    *ecdsa.PublicKey
		wrong  []*ecdsa.PublicKey
	}{
		{jose.BrainpoolSigner{Key: bp}, bp.PublicKey(), []*ecdsa.PublicKey{&p.PublicKey, brainpoolKey(t).PublicKey(), nil, {}}},
		{jose.P256Signer{Key: p}, &p.PublicKey, []*ecdsa.PublicKey{bp.PublicKey(), &p256Key(t).PublicKey, nil, {}}},
	} {
		token, err := jose.SignClaims(jose.Header{Typ: "JWT", X5c: [][]byte{{1, 2, 3}}}, map[string]any{"sub": "x"}, c.signer)
		if err != nil {
			t.Fatal(err)
		}
		s, err := jose.Parse(token)
		if err != nil {
			t.Fatal(err)
		}
		if s.Header.Alg != c.signer.Algorithm() || s.Header.Typ != "JWT" || !bytes.Equal(s.Header.X5c[0], []byte{1, 2, 3}) {
			t.Errorf("header %+v", s.Header)
		}
		if err := s.Verify(c.key); err != nil {
			t.Error(err)
		}
		for i, k := range c.wrong {
			if err := s.Verify(k); !errors.Is(err, jose.ErrSignature) {
				t.Errorf("wrong key %d: %v", i, err)
			}
		}
		parts := strings.Split(token, ".")
		forged, err := jose.Parse(parts[0] + "." + b64(`{"sub":"y"}`) + "." + parts[2])
		if err != nil {
			t.Fatal(err)
		}
		if err := forged.Verify(c.key); !errors.Is(err, jose.ErrSignature) {
			t.Errorf("forged payload: %v", err)
		}
	}
}

func TestEncryptAndDecrypt(t *testing.T) {
	t.Parallel()
	bp, p := brainpoolKey(t), p256Key(t)
	inner, err := jose.Nest("a.b.c")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to    *ecdsa.PublicKey
		key   jose.Agreement
		other jose.Agreement
		crv   string
	}{
		{bp.PublicKey(), bp, brainpoolKey(t), "BP-256"},
		{&p.PublicKey, jose.P256Agreement{Key: p}, jose.P256Agreement{Key: p256Key(t)}, "P-256"},
	} {
		token, err := jose.Encrypt(rand.Reader, c.to, jose.Header{Cty: "NJWT", Exp: 1700000000}, inner)
		if err != nil {
			t.Fatal(err)
		}
		h, plain, err := jose.Decrypt(token, c.key)
		if err != nil || h.Epk.Crv != c.crv || h.Cty != "NJWT" || h.Exp != 1700000000 {
			t.Fatalf("%+v %v", h, err)
		}
		if got, err := jose.Unnest(plain); err != nil || got != "a.b.c" {
			t.Errorf("%q %v", got, err)
		}
		if _, _, err := jose.Decrypt(token, c.other); !errors.Is(err, jose.ErrDecrypt) {
			t.Errorf("another key: %v", err)
		}
		parts := strings.Split(token, ".")
		for i := 2; i < 5; i++ {
			broken := append([]string(nil), parts...)
			b := []byte(broken[i])
			if b[0] == 'A' {
				b[0] = 'B'
			} else {
				b[0] = 'A'
			}
			broken[i] = string(b)
			if _, _, err := jose.Decrypt(strings.Join(broken, "."), c.key); err == nil {
				t.Errorf("part %d changed and still decrypted", i)
			}
		}
	}
	key := bytes.Repeat([]byte{7}, 32)
	token, err := jose.EncryptDirect(rand.Reader, key, jose.Header{}, []byte("code"))
	if err != nil {
		t.Fatal(err)
	}
	if _, plain, err := jose.DecryptDirect(token, key); err != nil || string(plain) != "code" {
		t.Errorf("%q %v", plain, err)
	}
	if _, _, err := jose.DecryptDirect(token, bytes.Repeat([]byte{8}, 32)); !errors.Is(err, jose.ErrDecrypt) {
		t.Error(err)
	}
	if _, _, err := jose.DecryptDirect(token, key[:16]); !errors.Is(err, jose.ErrDecrypt) {
		t.Error(err)
	}
	if _, _, err := jose.Decrypt(token, bp); !errors.Is(err, jose.ErrFormat) {
		t.Errorf("a directly encrypted token went through Decrypt: %v", err)
	}
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	sig := base64.RawURLEncoding.EncodeToString(make([]byte, 64))
	for name, token := range map[string]string{
		"empty":              "",
		"two parts":          "a.b",
		"header no base64":   "!!!.e30." + sig,
		"header padded":      b64(`{"alg":"ES256"}`) + "=.e30." + sig,
		"header no JSON":     b64(`{`) + ".e30." + sig,
		"header is an array": b64(`[]`) + ".e30." + sig,
		"alg none":           b64(`{"alg":"none"}`) + ".e30.",
		"alg HS256":          b64(`{"alg":"HS256"}`) + ".e30." + sig,
		"alg twice":          b64(`{"alg":"ES256","alg":"BP256R1"}`) + ".e30." + sig,
		"alg a number":       b64(`{"alg":1}`) + ".e30." + sig,
		"critical":           b64(`{"alg":"ES256","crit":["b64"],"b64":false}`) + ".e30." + sig,
		"compressed":         b64(`{"alg":"ES256","zip":"DEF"}`) + ".e30." + sig,
		"short signature":    b64(`{"alg":"ES256"}`) + ".e30." + b64("short"),
		"x5c no base64":      b64(`{"alg":"ES256","x5c":["*"]}`) + ".e30." + sig,
		"line break":         b64(`{"alg":"ES256"}`) + "\n.e30." + sig,
		"too long":           strings.Repeat("a", jose.MaxToken+1),
	} {
		if _, err := jose.Parse(token); !errors.Is(err, jose.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	key := brainpoolKey(t)
	for name, token := range map[string]string{
		"no epk":        b64(`{"alg":"ECDH-ES","enc":"A256GCM"}`) + "....",
		"epk off curve": b64(`{"alg":"ECDH-ES","enc":"A256GCM","epk":{"kty":"EC","crv":"BP-256","x":"`+strings.Repeat("A", 43)+`","y":"`+strings.Repeat("A", 43)+`"}}`) + "....",
		"epk curve":     b64(`{"alg":"ECDH-ES","enc":"A256GCM","epk":{"kty":"EC","crv":"P-521","x":"`+strings.Repeat("A", 43)+`","y":"`+strings.Repeat("A", 43)+`"}}`) + "....",
		"epk RSA":       b64(`{"alg":"ECDH-ES","enc":"A256GCM","epk":{"kty":"RSA"}}`) + "....",
		"enc":           b64(`{"alg":"ECDH-ES","enc":"A128GCM"}`) + "....",
		"four parts":    b64(`{"alg":"ECDH-ES","enc":"A256GCM"}`) + "...",
	} {
		if _, _, err := jose.Decrypt(token, key); !errors.Is(err, jose.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, payload := range []string{``, `{}`, `{"njwt":""}`, `{"njwt":1}`, `[]`} {
		if _, err := jose.Unnest([]byte(payload)); !errors.Is(err, jose.ErrFormat) {
			t.Errorf("nested %q: %v", payload, err)
		}
	}
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]jose.Seconds{`1700000000`: 1700000000, `"1700000000"`: 1700000000, `1700000000.25`: 1700000000} {
		var v struct {
			Exp jose.Seconds `json:"exp"`
		}
		if err := jose.Decode([]byte(`{"exp":`+in+`}`), &v); err != nil || v.Exp != want {
			t.Errorf("%s: %d %v", in, v.Exp, err)
		}
	}
	for _, in := range []string{`"x"`, `""`, `true`, `null`, `1e400`, `{}`, `99999999999999999999`} {
		var v struct {
			Exp jose.Seconds `json:"exp"`
		}
		if err := jose.Decode([]byte(`{"exp":`+in+`}`), &v); !errors.Is(err, jose.ErrFormat) {
			t.Errorf("%s: read as %d, %v", in, v.Exp, err)
		}
	}
}

// TestRealFederationList verifies the signature of the published sample.
func TestRealFederationList(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = "../../../../shared/reference"
	}
	token, err := os.ReadFile(filepath.Join(dir, "gematik/federation-list/federation-list-ru-sample.jws"))
	if err != nil {
		t.Skip("skipped: no sample federation list in the reference data (KONSIL_REFERENCE)")
	}
	s, err := jose.Parse(strings.TrimSpace(string(token)))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(s.Header.X5c[0], []byte{0x03, 0x42, 0x00, 0x04}) // the public key's bit string
	if at < 0 {
		t.Fatal("no point in the certificate")
	}
	key, err := brainpool.ParsePublicKey(s.Header.X5c[0][at+3 : at+3+brainpool.PointSize])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(key); err != nil {
		t.Error(err)
	}
	var list struct {
		Version    int
		DomainList []struct{ Domain string } `json:"domainList"`
	}
	if err := s.Claims(&list); err != nil || len(list.DomainList) != 277 {
		t.Errorf("%d domains, %v", len(list.DomainList), err)
	}
}

func FuzzParse(f *testing.F) {
	token, err := jose.SignClaims(jose.Header{Typ: "JWT"}, map[string]any{"sub": "x"}, jose.BrainpoolSigner{Key: brainpoolKey(f)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("..")
	key := brainpoolKey(f).PublicKey()
	f.Fuzz(func(t *testing.T, token string) {
		s, err := jose.Parse(token)
		if err != nil {
			if !errors.Is(err, jose.ErrFormat) {
				t.Error(err)
			}
			return
		}
		if s.Verify(key) == nil {
			t.Error("verified with a key that signed nothing")
		}
	})
}

func FuzzDecrypt(f *testing.F) {
	key := brainpoolKey(f)
	token, err := jose.Encrypt(rand.Reader, key.PublicKey(), jose.Header{}, []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("....")
	f.Fuzz(func(t *testing.T, token string) {
		if _, _, err := jose.Decrypt(token, key); err != nil && !errors.Is(err, jose.ErrFormat) && !errors.Is(err, jose.ErrDecrypt) {
			t.Error(err)
		}
	})
}
