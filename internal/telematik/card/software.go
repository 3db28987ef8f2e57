// SPDX-License-Identifier: Apache-2.0

package card

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
)

const (
	// Retries is how many wrong PINs in a row a card takes before it blocks, as the real ones do.
	Retries = 3

	pinRounds  = 20_000 // a PIN has few digits: the counter protects it, not the derivation
	fileFormat = "konsil-software-card-1"
)

// ErrBlocked is answered by a card whose retry counter has run out.
var ErrBlocked = errors.New("the card is blocked after too many wrong PINs")

// PINError is answered for a wrong PIN.
type PINError struct{ Left int }

// Error says how many attempts are left.
func (e *PINError) Error() string { return fmt.Sprintf("wrong PIN, %d attempts left", e.Left) }

// pinForm: German health cards take 6 to 8 digits.
var pinForm = regexp.MustCompile(`^[0-9]{6,8}$`)

// Card is a software card in a file. It is safe for concurrent use within one process.
type Card struct {
	path        string
	certificate *certificate.Certificate

	mu   sync.Mutex
	file cardFile
}

// cardFile is how a card lies on disk: the key is sealed under a key derived from the PIN.
type cardFile struct {
	Format      string `json:"format"`
	Note        string `json:"note"`
	Certificate string `json:"certificate"`
	Salt        []byte `json:"salt"`
	Sealed      []byte `json:"sealed"`
	Retries     int    `json:"retries"`
}

// Load reads a card's file.
func Load(path string) (*Card, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	var f cardFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("card: %s: %w", path, err)
	}
	if f.Format != fileFormat {
		return nil, fmt.Errorf("card: %s is no software card", path)
	}
	all, err := certificate.ParsePEM([]byte(f.Certificate))
	if err != nil {
		return nil, fmt.Errorf("card: %s: %w", path, err)
	}
	return &Card{path: path, certificate: all[0], file: f}, nil
}

// create seals a key under a PIN and writes the card's file.
func create(path string, c *certificate.Certificate, key *brainpool.PrivateKey, pin string, rand io.Reader) (*Card, error) {
	if !pinForm.MatchString(pin) {
		return nil, errors.New("card: a PIN has 6 to 8 digits")
	}
	salt := make([]byte, 16+12)
	if _, err := io.ReadFull(rand, salt); err != nil {
		return nil, fmt.Errorf("card: salt: %w", err)
	}
	aead, err := pinCipher(pin, salt)
	if err != nil {
		return nil, err
	}
	card := &Card{path: path, certificate: c, file: cardFile{
		Format: fileFormat, Note: "software card for demonstration, not for real patients", Certificate: string(c.PEM()), Salt: salt,
		Sealed: aead.Seal(nil, salt[16:], key.Bytes(), c.DER()), Retries: Retries,
	}}
	return card, card.save()
}

// Path is the card's file.
func (c *Card) Path() string { return c.path }

// Certificate is the card's authentication certificate.
func (c *Card) Certificate() *certificate.Certificate { return c.certificate }

// Identity is whom the card speaks for.
func (c *Card) Identity() (certificate.Identity, error) { return c.certificate.Identity() }

// RetriesLeft says how many wrong PINs the card still takes; 0 is blocked.
func (c *Card) RetriesLeft() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.file.Retries
}

// Unlock opens the card with its PIN and returns a signer. The counter is written to disk before the PIN is tried, so that killing the program
// wins no attempt. It answers *PINError or ErrBlocked.
func (c *Card) Unlock(pin string) (Signer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file.Retries <= 0 {
		return nil, ErrBlocked
	}
	c.file.Retries--
	if err := c.save(); err != nil {
		return nil, err
	}
	aead, err := pinCipher(pin, c.file.Salt)
	if err != nil {
		return nil, err
	}
	scalar, err := aead.Open(nil, c.file.Salt[16:], c.file.Sealed, c.certificate.DER())
	if err != nil {
		if c.file.Retries == 0 {
			return nil, fmt.Errorf("%w: %w", ErrBlocked, &PINError{})
		}
		return nil, &PINError{Left: c.file.Retries}
	}
	key, err := brainpool.NewPrivateKey(scalar)
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	c.file.Retries = Retries
	if err := c.save(); err != nil {
		return nil, err
	}
	return newSigner(key, c.certificate), nil
}

func (c *Card) save() error {
	text, err := json.Marshal(c.file, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("card: %w", err)
	}
	return writeFile(c.path, append(text, '\n'))
}

func pinCipher(pin string, salt []byte) (cipher.AEAD, error) {
	if len(salt) != 16+12 {
		return nil, errors.New("card: damaged file")
	}
	key, err := pbkdf2.Key(sha256.New, pin, salt[:16], pinRounds, 32)
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	return cipher.NewGCM(block)
}
