// SPDX-License-Identifier: Apache-2.0

package card

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	stdasn1 "encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
)

const keyBlock = "EC PRIVATE KEY"

var oidBrainpool = stdasn1.ObjectIdentifier{1, 3, 36, 3, 3, 2, 8, 1, 1, 7}

// writeFile replaces a file in one step, readable by its owner only.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("card: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("card: %w", err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error that counts is the one above
		return fmt.Errorf("card: writing %s: %w", path, err)
	}
	return nil
}

// encodeKey writes a key as SEC 1 has it, so that other tools can read it.
func encodeKey(key *brainpool.PrivateKey) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1OctetString(key.Bytes())
		b.AddASN1(asn1.Tag(0).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidBrainpool) })
		b.AddASN1(asn1.Tag(1).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1BitString(brainpool.Point(key.PublicKey())) })
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("card: encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// decodeKey reads what encodeKey wrote.
func decodeKey(text []byte) (*brainpool.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, errors.New("card: no key in PEM text")
	}
	input := cryptobyte.String(block.Bytes)
	var inner, scalar, parameters cryptobyte.String
	var version int
	var curve stdasn1.ObjectIdentifier
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1Integer(&version) || !inner.ReadASN1(&scalar, asn1.OCTET_STRING) ||
		!inner.ReadASN1(&parameters, asn1.Tag(0).Constructed().ContextSpecific()) || !parameters.ReadASN1ObjectIdentifier(&curve) || !curve.Equal(oidBrainpool) {
		return nil, errors.New("card: not a key of brainpoolP256r1")
	}
	return brainpool.NewPrivateKey(scalar)
}

// p256Signer is a component's signer with a key of the curve P-256 (ES256).
type p256Signer struct {
	jose.P256Signer
	certificate *certificate.Certificate
}

// Certificate implements [Signer].
func (s p256Signer) Certificate() *certificate.Certificate { return s.certificate }

// LoadSigner reads a component's certificate and private key from PEM files: brainpoolP256r1 signs BP256R1, P-256 signs ES256.
func LoadSigner(certificateFile, keyFile string) (Signer, error) {
	text, err := os.ReadFile(certificateFile)
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	all, err := certificate.ParsePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certificateFile, err)
	}
	if text, err = os.ReadFile(keyFile); err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	var signer Signer
	var public *ecdsa.PublicKey
	if key, err := decodeP256(text); err == nil {
		signer, public = p256Signer{jose.P256Signer{Key: key}, all[0]}, &key.PublicKey
	} else {
		key, err := decodeKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", keyFile, err)
		}
		signer, public = newSigner(key, all[0]), key.PublicKey()
	}
	if own := all[0].PublicKey(); own == nil || !own.Equal(public) {
		return nil, fmt.Errorf("card: %s and %s do not belong together", certificateFile, keyFile)
	}
	return signer, nil
}

func decodeP256(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, errors.New("card: no key in PEM text")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

// TokenKey returns the P-256 key that a central service signs its access tokens with; the first call draws it and writes it to the file.
func TokenKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("card: %w", err)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("card: %w", err)
		}
		return key, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
	}
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("card: no key in %s", path)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("card: %s: %w", path, err)
	}
	return key, nil
}
