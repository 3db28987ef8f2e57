// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/server/authority"
)

// masterKey reads the master key, or draws one at the first start where the environment allows that.
func masterKey(c *config.Config) ([]byte, error) {
	if c.MasterKey.Value != "" {
		return base64.StdEncoding.DecodeString(c.MasterKey.Value)
	}
	text, err := os.ReadFile(c.MasterKey.File)
	if errors.Is(err, fs.ErrNotExist) && c.Environment != config.Production {
		key := make([]byte, keyring.MasterSize)
		rand.Read(key)
		return key, writeNew(c.MasterKey.File, base64.StdEncoding.EncodeToString(key)+"\n")
	}
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) < keyring.MasterSize {
		return nil, fmt.Errorf("master key: %s does not hold %d bytes in base64", c.MasterKey.File, keyring.MasterSize)
	}
	return key, nil
}

// writeNew writes a file that must not be there yet and reaches the disk before anything is sealed with it.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// openLog returns the configured log. Pseudonyms depend on the master key, so they stay the same over restarts.
func openLog(c *config.Config, master []byte) (*slog.Logger, *os.File, error) {
	var out io.Writer = os.Stderr
	var file *os.File
	if c.Logging.File != "" {
		var err error
		if file, err = os.OpenFile(c.Logging.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return nil, nil, fmt.Errorf("log: %w", err)
		}
		out = file
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Logging.Level)); err != nil {
		return nil, nil, err
	}
	ring, err := keyring.New(nil, master)
	if err != nil {
		return nil, nil, err
	}
	return observe.NewLogger(observe.LogOptions{Output: out, Level: level, JSON: c.Logging.Format == "json",
		Pseudonyms: observe.NewPseudonyms(ring.Derive("log pseudonyms", 32))}), file, nil
}

// roots are the system's root certificates and the configured ones. SSL_CERT_FILE adds to them on every platform; where Go takes it in place
// of the system's file, that is what the operator asked for.
func roots(files []string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if extra := os.Getenv("SSL_CERT_FILE"); extra != "" {
		files = append([]string{extra}, files...)
	}
	for _, name := range files {
		if err := appendPEM(pool, name); err != nil {
			return nil, err
		}
	}
	return pool, nil
}

// onlyRoots is a pool of one file alone, for a server that is pinned to its own authority.
func onlyRoots(name string) (*x509.CertPool, error) {
	if name == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	return pool, appendPEM(pool, name)
}

func appendPEM(pool *x509.CertPool, name string) error {
	pem, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("root certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("root certificates: %s holds none", name)
	}
	return nil
}

// demoMarks stand in the subjects of certificates that prove nothing: those of this demonstration, and of everybody's test infrastructure.
var demoMarks = []string{authority.Name, "TEST-ONLY", "NOT-VALID"}

// refuseDemoRoots keeps demonstration and test roots out of production, whatever they are configured for.
func refuseDemoRoots(c *config.Config) error {
	if c.Environment != config.Production {
		return nil
	}
	files := slices.Concat(c.CA, c.Telematik.CardRoots, c.Telematik.ListRoots)
	for _, r := range c.Federation.Resolve {
		if r.CA != "" {
			files = append(files, r.CA)
		}
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			for _, mark := range demoMarks {
				if bytes.Contains(block.Bytes, []byte(mark)) {
					return fmt.Errorf("%s is a root of a demonstration or test (%q): production refuses it", name, mark)
				}
			}
		}
	}
	return nil
}
