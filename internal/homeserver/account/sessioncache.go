// SPDX-License-Identifier: Apache-2.0

package account

import (
	"container/list"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// maxSessions bounds the cached sessions of a node; sessionTTL is how long one is believed before the database is asked again, which bounds
// how late another node's revocation is seen (engine rule 9). Revocations of this node work at once.
const (
	maxSessions = 20_000
	sessionTTL  = 5 * time.Second
)

type userKey struct {
	tenant tenant.ID
	user   id.User
}

type sessionKey struct {
	tenant tenant.ID
	hash   [32]byte
}

type cachedSession struct {
	key     sessionKey
	owner   userKey
	session *httpapi.Session
	expires int64 // of the token, ms; 0 never
	until   time.Time
}

// sessionCache finds the session behind a token without the database. It can be dropped at any instant.
type sessionCache struct {
	mu     sync.Mutex
	byKey  map[sessionKey]*list.Element
	byUser map[userKey]map[sessionKey]struct{}
	order  *list.List // most recently used first
	// generation counts revocations: a session read from the database before one is not stored after it.
	generation uint64
}

func newSessionCache() *sessionCache {
	return &sessionCache{byKey: map[sessionKey]*list.Element{}, byUser: map[userKey]map[sessionKey]struct{}{}, order: list.New()}
}

func (c *sessionCache) get(key sessionKey, now time.Time) (*cachedSession, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[key]
	if !ok {
		return nil, c.generation
	}
	s := e.Value.(*cachedSession)
	if now.After(s.until) {
		c.remove(e)
		return nil, c.generation
	}
	c.order.MoveToFront(e)
	return s, c.generation
}

// put stores a session that was read at the given generation.
func (c *sessionCache) put(s *cachedSession, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if e, ok := c.byKey[s.key]; ok {
		c.remove(e)
	}
	c.byKey[s.key] = c.order.PushFront(s)
	if c.byUser[s.owner] == nil {
		c.byUser[s.owner] = map[sessionKey]struct{}{}
	}
	c.byUser[s.owner][s.key] = struct{}{}
	if c.order.Len() > maxSessions {
		c.remove(c.order.Back())
	}
}

// forget drops all sessions of a user.
func (c *sessionCache) forget(t tenant.ID, user id.User) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for key := range c.byUser[userKey{t, user}] {
		if e, ok := c.byKey[key]; ok {
			c.remove(e)
		}
	}
}

func (c *sessionCache) remove(e *list.Element) {
	s := c.order.Remove(e).(*cachedSession)
	delete(c.byKey, s.key)
	set := c.byUser[s.owner]
	delete(set, s.key)
	if len(set) == 0 {
		delete(c.byUser, s.owner)
	}
}
