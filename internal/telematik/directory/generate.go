// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"fmt"
	"math/rand/v2"
)

// Generated is what [Generate] makes: two thirds people, one third institutions.
type Generated struct {
	People       []Person
	Institutions []Institution
}

// Generate invents n plausible German entries, the same ones for the same seed. None of them has a messenger.
func Generate(seed uint64, n int) Generated {
	r := rand.New(rand.NewPCG(seed, 0x6b6f6e73696c))
	var g Generated
	for i := range n {
		if i%3 == 2 {
			g.Institutions = append(g.Institutions, institution(r, i))
		} else {
			g.People = append(g.People, person(r, i))
		}
	}
	return g
}

// generateBlock is how many entries [GenerateEach] hands on at once.
const generateBlock = perTransaction / 3

// GenerateEach makes the entries of [Generate] block by block, so that millions of them need no memory.
func GenerateEach(seed uint64, n int, take func([]Entry) error) error {
	r := rand.New(rand.NewPCG(seed, 0x6b6f6e73696c))
	var block []Entry
	for i := range n {
		var e []Entry
		var err error
		if i%3 == 2 {
			e, err = institution(r, i).Entries()
		} else {
			e, err = person(r, i).Entries()
		}
		if err != nil {
			return err
		}
		for _, x := range e {
			x.Quiet = true
			block = append(block, x)
		}
		if (i+1)%generateBlock == 0 || i+1 == n {
			if err := take(block); err != nil {
				return err
			}
			block = block[:0]
		}
	}
	return nil
}

// Entries makes the resources of all of them.
func (g Generated) Entries() ([]Entry, error) {
	var all []Entry
	for _, p := range g.People {
		e, err := p.Entries()
		if err != nil {
			return nil, err
		}
		all = append(all, e...)
	}
	for _, i := range g.Institutions {
		e, err := i.Entries()
		if err != nil {
			return nil, err
		}
		all = append(all, e...)
	}
	return all, nil
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// weighted picks an index by weight.
func weighted(r *rand.Rand, n int, weight func(int) int) int {
	sum := 0
	for i := range n {
		sum += weight(i)
	}
	at := r.IntN(sum)
	for i := range n {
		if at -= weight(i); at < 0 {
			return i
		}
	}
	return n - 1
}

func street(r *rand.Rand) string { return fmt.Sprintf("%s %d", pick(r, streets), 1+r.IntN(140)) }

// nearby moves a place by up to about two kilometres, so that neighbours differ.
func nearby(r *rand.Rand) Place {
	p := pick(r, Places)
	p.Latitude += (r.Float64() - 0.5) * 0.036
	p.Longitude += (r.Float64() - 0.5) * 0.056
	return p
}

func person(r *rand.Rand, i int) Person {
	kind := professionals[weighted(r, len(professionals), func(i int) int { return professionals[i].weight })]
	p := Person{
		TelematikID: fmt.Sprintf("%s%08d", kind.prefix, i), GivenName: pick(r, givenNames), FamilyName: pick(r, familyNames), ProfessionOID: kind.oid, Street: street(r), Place: nearby(r),
		Inactive: r.IntN(50) == 0,
	}
	switch r.IntN(10) {
	case 0:
		if kind.titles != "" {
			p.Prefix = "Prof. " + kind.titles
		}
	case 1, 2, 3, 4, 5:
		p.Prefix = kind.titles
	}
	if r.IntN(12) == 0 {
		if other := pick(r, familyNames); other != p.FamilyName {
			p.FamilyName += "-" + other
		}
	}
	if kind.withSpecialties {
		p.Specialties = []Concept{pick(r, Specialties)}
	}
	return p
}

func institution(r *rand.Rand, i int) Institution {
	kind := organisations[weighted(r, len(organisations), func(i int) int { return organisations[i].weight })]
	place := nearby(r)
	of := place.Town
	switch kind.of {
	case "family":
		of = pick(r, familyNames)
	case "street":
		of = pick(r, streets)
	}
	o := Institution{
		TelematikID: fmt.Sprintf("%s%08d", kind.prefix, i), Name: fmt.Sprintf(pick(r, kind.names), of), ProfessionOID: kind.oid, Street: street(r), Place: place,
		Phone: fmt.Sprintf("0%d %d", 30+r.IntN(9000), 100000+r.IntN(900000)), Inactive: r.IntN(50) == 0,
	}
	if kind.medical {
		o.Specialties = []Concept{pick(r, Specialties)}
		if r.IntN(3) == 0 {
			if other := pick(r, Specialties); other != o.Specialties[0] {
				o.Specialties = append(o.Specialties, other)
			}
		}
	}
	return o
}
