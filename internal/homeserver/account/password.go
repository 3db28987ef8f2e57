// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// PasswordConfig sets the cost of password hashes (argon2id) and how many are computed at once on this node. Zero values take the defaults.
type PasswordConfig struct {
	// Time is the number of passes (2), Memory the KiB used (19,456), Parallel the hashes computed at the same time (2).
	Time     uint32
	Memory   uint32
	Parallel int
	// MinLength refuses shorter new passwords with M_WEAK_PASSWORD (0: any but the empty one).
	MinLength int
}

const (
	maxPassword  = 1024 // bytes; longer ones only cost time
	passwordSalt = 16
	passwordKey  = 32
)

// hasher bounds how many hashes run at once: each takes a processor and its memory.
type hasher struct {
	c     PasswordConfig
	slots chan struct{}
	dummy string
}

func newHasher(c PasswordConfig) *hasher {
	if c.Time == 0 {
		c.Time = 2
	}
	if c.Memory == 0 {
		c.Memory = 19 * 1024
	}
	if c.Parallel == 0 {
		c.Parallel = 2
	}
	h := &hasher{c: c, slots: make(chan struct{}, c.Parallel)}
	// An unknown user costs as much as a known one, so that time does not tell who exists. The key matches no password.
	h.dummy = h.encode(make([]byte, passwordSalt), make([]byte, passwordKey))
	return h
}

// check refuses passwords that may not be set.
func (h *hasher) check(password string) error {
	switch {
	case password == "" || len(password) < h.c.MinLength:
		return mxerror.WeakPassword.With("the password needs at least %d characters", max(h.c.MinLength, 1))
	case len(password) > maxPassword:
		return mxerror.InvalidParam.With("the password is longer than %d bytes", maxPassword)
	}
	return nil
}

func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	salt := make([]byte, passwordSalt)
	rand.Read(salt)
	return h.encode(salt, argon2.IDKey([]byte(password), salt, h.c.Time, h.c.Memory, 1, passwordKey)), nil
}

func (h *hasher) encode(salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, h.c.Memory, h.c.Time, b64.EncodeToString(salt), b64.EncodeToString(key))
}

// verify compares in the time that the stored parameters take; an empty hash (no such user, no password) takes the usual time and fails.
func (h *hasher) verify(ctx context.Context, stored, password string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer h.leave()
	if stored == "" {
		stored = h.dummy
	}
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, fmt.Errorf("stored password hash of unknown form")
	}
	var memory, time uint32
	var threads uint8
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil {
		return false, fmt.Errorf("stored password hash: %w", err)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, fmt.Errorf("stored password hash: %w", err)
	}
	key, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil {
		return false, fmt.Errorf("stored password hash: %w", err)
	}
	got := argon2.IDKey([]byte(password), salt, time, memory, threads, uint32(len(key)))
	return subtle.ConstantTimeCompare(got, key) == 1 && stored != h.dummy, nil
}

func (h *hasher) enter(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hasher) leave() { <-h.slots }
