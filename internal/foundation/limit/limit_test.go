// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"strconv"
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestBucketEmptiesAndRefills(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Unix(1000, 0)}
	l := New(Options{Rates: map[Class]Rate{Login: {PerSecond: 2, Burst: 3}}, Now: c.now})
	for i := range 3 {
		if ok, _ := l.Allow(Login, "a", "u"); !ok {
			t.Fatalf("request %d of the burst was refused", i)
		}
	}
	ok, wait := l.Allow(Login, "a", "u")
	if ok || wait != 500*time.Millisecond {
		t.Fatalf("after the burst: %v, %v; want refusal for 500ms", ok, wait)
	}
	for _, other := range []struct{ tenant, key string }{{"b", "u"}, {"a", "v"}} {
		if ok, _ := l.Allow(Login, other.tenant, other.key); !ok {
			t.Errorf("%v shares a bucket with somebody else", other)
		}
	}
	c.t = c.t.Add(wait)
	if ok, _ := l.Allow(Login, "a", "u"); !ok {
		t.Error("refused after the time it was told to wait")
	}
	c.t = c.t.Add(-time.Hour) // a clock that goes back neither gives nor takes
	if ok, _ := l.Allow(Login, "a", "u"); ok {
		t.Error("a clock that goes back filled the bucket")
	}
}

func TestOffAndNone(t *testing.T) {
	t.Parallel()
	off := New(Options{Off: true, Rates: map[Class]Rate{Send: {1, 1}}})
	on := New(Options{Rates: map[Class]Rate{Read: {}}})
	for range 10 {
		if ok, _ := off.Allow(Send, "a", "u"); !ok {
			t.Fatal("a limiter that is off refused")
		}
		if ok, _ := on.Allow(None, "a", "u"); !ok {
			t.Fatal("class None was refused")
		}
		if ok, _ := on.Allow(Read, "a", "u"); !ok {
			t.Fatal("a class without rate was refused")
		}
	}
	if off.Len()+on.Len() != 0 {
		t.Error("unlimited requests left buckets behind")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const buckets = 320
	c := &clock{t: time.Unix(1000, 0)}
	l := New(Options{Buckets: buckets, Rates: map[Class]Rate{Login: {PerSecond: 0.001, Burst: 1}}, Now: c.now})
	l.Allow(Login, "a", "attacker")
	for i := range 10 * buckets {
		l.Allow(Login, "a", strconv.Itoa(i))
		if ok, _ := l.Allow(Login, "a", "attacker"); ok {
			t.Fatalf("a bucket in use was forgotten after %d others", i)
		}
	}
	if n := l.Len(); n > buckets {
		t.Errorf("%d buckets remembered, bound is %d", n, buckets)
	}
}

func TestEveryClassHasNameAndRate(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for c := range classes {
		class := Class(c)
		if class.String() == "" || seen[class.String()] {
			t.Errorf("class %d has no name of its own", c)
		}
		seen[class.String()] = true
		if r := class.Default(); class != None && (r.PerSecond <= 0 || r.Burst < 1) {
			t.Errorf("class %s has no default rate", class)
		}
	}
}
