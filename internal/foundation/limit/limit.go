// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"hash/maphash"
	"math"
	"sync"
	"time"
)

// Options shapes a [Limiter]. The zero value limits by the default rates.
type Options struct {
	// Off switches every limit off, as load generators and test suites need it.
	Off bool
	// Rates replaces the defaults of single classes.
	Rates map[Class]Rate
	// Buckets bounds how many buckets are remembered (0: 100,000). The least recently used ones go first; a forgotten bucket is a full one.
	Buckets int
	// Now is the clock (nil: time.Now).
	Now func() time.Time
}

// Limiter holds the buckets of one node. It is safe for concurrent use.
type Limiter struct {
	off    bool
	now    func() time.Time
	rates  [len(classes)]Rate
	seed   maphash.Seed
	shards [shardCount]shard
}

const (
	shardCount     = 16
	defaultBuckets = 100_000
)

// New returns a limiter with all buckets full.
func New(o Options) *Limiter {
	l := &Limiter{off: o.Off, now: o.Now, seed: maphash.MakeSeed()}
	if l.now == nil {
		l.now = time.Now
	}
	if o.Buckets <= 0 {
		o.Buckets = defaultBuckets
	}
	for c := range classes {
		l.rates[c] = classes[c].rate
		if r, ok := o.Rates[Class(c)]; ok {
			l.rates[c] = r
		}
	}
	for i := range l.shards {
		l.shards[i].capacity = max(1, o.Buckets/shardCount/2)
		l.shards[i].young = map[bucketKey]bucket{}
	}
	return l
}

type bucketKey struct {
	class  Class
	tenant string
	key    string
}

// bucket is the number of tokens that were there at a moment.
type bucket struct {
	tokens float64
	at     time.Time
}

// shard keeps two generations: when the young one is full it becomes the old one and what the old one still held is forgotten. A bucket in
// use moves back to the young one, so the memory is bounded at twice the capacity without a sweep.
type shard struct {
	mu         sync.Mutex
	capacity   int
	young, old map[bucketKey]bucket
}

// Allow takes one token. When there is none it answers false and how long until there will be one.
func (l *Limiter) Allow(class Class, tenant, key string) (ok bool, retryAfter time.Duration) {
	if l == nil || l.off || class == None || int(class) >= len(classes) {
		return true, 0
	}
	rate := l.rates[class]
	if rate.PerSecond <= 0 {
		return true, 0
	}
	k := bucketKey{class, tenant, key}
	s := &l.shards[maphash.Comparable(l.seed, k)%shardCount]
	now := l.now()

	s.mu.Lock()
	defer s.mu.Unlock()
	b, found := s.find(k)
	if !found {
		b = bucket{tokens: rate.Burst, at: now}
	}
	if elapsed := now.Sub(b.at); elapsed > 0 {
		b.tokens = min(rate.Burst, b.tokens+elapsed.Seconds()*rate.PerSecond)
		b.at = now
	}
	if b.tokens >= 1 {
		b.tokens--
		s.put(k, b)
		return true, 0
	}
	s.put(k, b)
	wait := time.Duration(math.Ceil((1 - b.tokens) / rate.PerSecond * float64(time.Second)))
	return false, wait
}

func (s *shard) find(k bucketKey) (bucket, bool) {
	if b, ok := s.young[k]; ok {
		return b, true
	}
	b, ok := s.old[k]
	return b, ok
}

func (s *shard) put(k bucketKey, b bucket) {
	if _, ok := s.young[k]; !ok && len(s.young) >= s.capacity {
		s.old, s.young = s.young, map[bucketKey]bucket{}
	}
	s.young[k] = b
}

// Len says how many buckets are remembered.
func (l *Limiter) Len() int {
	n := 0
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.young) + len(s.old)
		s.mu.Unlock()
	}
	return n
}
