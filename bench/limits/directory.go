// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// directorySeed makes the same entries for every run.
const directorySeed = 1

// Imported says what an import of directory entries took.
type Imported struct {
	Entries, Resources int
	Took               time.Duration
	// Size is the database's size afterwards in bytes, as far as it is known; 0 where it is not.
	Size int64
}

// Directory fills an empty database with n invented entries of people and organisations, as a card issuer's delivery does.
func Directory(ctx context.Context, databaseURL string, n int, progress func(done int)) (i Imported, err error) {
	db, err := database.Open(ctx, database.Options{URL: databaseURL})
	if err != nil {
		return i, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	store := directory.NewStore(db, nil)
	i.Entries = n
	err = directory.GenerateEach(directorySeed, n, func(entries []directory.Entry) error {
		began := time.Now()
		if err := store.Put(ctx, entries...); err != nil {
			return err
		}
		i.Took += time.Since(began)
		before := i.Resources
		i.Resources += len(entries)
		if i.Resources/300_000 != before/300_000 {
			progress(i.Resources / 3)
		}
		return nil
	})
	if err == nil {
		i.Size, err = size(ctx, db, databaseURL)
	}
	return i, err
}

// size is how much the database takes on disk.
func size(ctx context.Context, db *database.DB, databaseURL string) (bytes int64, err error) {
	if db.Postgres() {
		err = db.QueryRow(ctx, "SELECT COALESCE(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace").Scan(&bytes)
		return bytes, err
	}
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(strings.TrimPrefix(databaseURL, "sqlite:") + suffix)
		if err == nil {
			bytes += info.Size()
		}
	}
	return bytes, nil
}

// Queries are searches whose answers a directory made by [Directory] holds, as they follow the resource type in an address, by kind.
func Queries(n int) map[string][]string {
	all := map[string][]string{}
	add := func(kind, root string, pairs ...string) {
		q := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			q.Add(pairs[i], pairs[i+1])
		}
		all[kind] = append(all[kind], root+"?"+q.Encode())
	}
	g := directory.Generate(directorySeed, min(n, 900))
	const root = "PractitionerRole"
	for i, p := range g.People {
		if p.Inactive {
			continue
		}
		add("name", root, "practitioner.active", "true", "practitioner.name", p.FamilyName+" "+p.GivenName, "_include", root+":*")
		add("name_place", root, "practitioner.active", "true", "practitioner.name", p.FamilyName, "location.address-city", p.Place.Town, "_include", root+":*")
		family := []rune(p.FamilyName)
		add("prefix", root, "practitioner.active", "true", "practitioner.name", string(family[:min(len(family), 2+i%3)]), "_include", root+":practitioner")
		if len(p.Specialties) > 0 {
			add("speciality_near", root, "practitioner.active", "true", "practitioner.qualification", p.Specialties[0].Code,
				"location.near", fmt.Sprintf("%.4f|%.4f|10|km", p.Place.Latitude, p.Place.Longitude), "_include", root+":*")
		}
	}
	return all
}
