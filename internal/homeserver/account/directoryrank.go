// SPDX-License-Identifier: Apache-2.0

package account

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// maxCandidates bounds how many people one search looks at.
	maxCandidates = 500
	// maxWords and maxTerm bound a search's words, and its length in bytes.
	maxWords, maxTerm = 6, 200
)

// searchLocal finds the tenant's people whose names hold every word of the term, each with a slip of the finger allowed where it is long enough.
// The database gives a bounded number of candidates by a part of the longest word that the slips have left whole; their order is decided here, so that
// it is the same on both databases. Those who fit without slips are asked for first and cannot be pushed out by others.
func (s *Service) searchLocal(ctx context.Context, t tenant.ID, term string, limit int) ([]directoryEntry, error) {
	if len(term) > maxTerm {
		return nil, nil
	}
	words := strings.Fields(term)
	words = words[:min(len(words), maxWords)]
	longest := slices.MaxFunc(words, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	ranked, err := s.rank(ctx, t, words, []string{longest})
	if parts := intact(longest); err == nil && len(ranked) < limit && len(parts) > 1 {
		var more []rankedEntry
		more, err = s.rank(ctx, t, words, parts)
		for _, e := range more {
			if !slices.ContainsFunc(ranked, func(o rankedEntry) bool { return o.User == e.User }) {
				ranked = append(ranked, e)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ranked, func(a, b rankedEntry) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.User, b.User))
	})
	found := make([]directoryEntry, 0, min(limit, len(ranked)))
	for _, e := range ranked[:min(limit, len(ranked))] {
		found = append(found, e.directoryEntry)
	}
	return found, nil
}

// rankedEntry is somebody found, with how far the name is from what was asked for: 0 is every word as it stands.
type rankedEntry struct {
	directoryEntry
	distance int
}

// rank reads candidates that hold one of the parts and keeps those that fit.
func (s *Service) rank(ctx context.Context, t tenant.ID, words, parts []string) ([]rankedEntry, error) {
	escape := strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")
	args := []any{int64(t)}
	var fits []string
	for _, p := range parts {
		args = append(args, "%"+escape.Replace(p)+"%")
		mark := "$" + strconv.Itoa(len(args))
		fits = append(fits, "a.user_id LIKE "+mark+" ESCAPE '!' OR n.folded LIKE "+mark+" ESCAPE '!'")
	}
	args = append(args, maxCandidates)
	rows, err := s.db.Query(ctx, `SELECT a.user_id, COALESCE(n.value, ''), COALESCE(n.folded, ''), COALESCE(v.value, '') FROM account a
		LEFT JOIN profile n ON n.tenant = a.tenant AND n.user_id = a.user_id AND n.field = 'displayname'
		LEFT JOIN profile v ON v.tenant = a.tenant AND v.user_id = a.user_id AND v.field = 'avatar_url'
		WHERE a.tenant = $1 AND NOT a.deactivated AND NOT a.guest AND (`+strings.Join(fits, " OR ")+`)
		ORDER BY a.user_id LIMIT $`+strconv.Itoa(len(args)), args...)
	all, err := database.All(rows, err, func(rows *sql.Rows) (rankedEntry, error) {
		var e rankedEntry
		var name, folded, avatar string
		err := rows.Scan(&e.User, &name, &folded, &avatar)
		e.DisplayName, e.AvatarURL = plain(name), plain(avatar)
		e.distance = far(words, e.User, folded)
		return e, err
	})
	return slices.DeleteFunc(all, func(e rankedEntry) bool { return e.distance < 0 }), err
}

// The steps of distance between a word of the term and a name. A slip is worse than any place within a word.
const (
	atStart  = 1
	within   = 2
	perSlip  = 10
	unfit    = -1
	shortest = 4 // words below it allow no slip
	longWord = 8 // words from it on allow two
)

// far is the sum of the words' distances to a person's names, unfit when one of them does not fit at all.
func far(words []string, user id.User, folded string) int {
	names := append(strings.Fields(folded), strings.TrimPrefix(string(user), "@"), user.Localpart())
	sum := 0
	for _, w := range words {
		best := unfit
		for _, n := range names {
			if d := wordDistance(w, n); d >= 0 && (best < 0 || d < best) {
				best = d
			}
		}
		if best < 0 && strings.Contains(string(user), w) { // a full user id, as people paste it
			best = within
		}
		if best < 0 {
			return unfit
		}
		sum += best
	}
	return sum
}

// wordDistance is how far a word of the term is from a word of a name: equal, its beginning, within it, or equal to it or its beginning but for slips.
func wordDistance(word, name string) int {
	switch {
	case word == name:
		return 0
	case strings.HasPrefix(name, word):
		return atStart
	case strings.Contains(name, word):
		return within
	}
	w, n := []rune(word), []rune(name)
	allowed := slips(len(w))
	if allowed == 0 {
		return unfit
	}
	best := allowed + 1
	for length := max(len(w)-allowed, 1); length <= min(len(w)+allowed, len(n)); length++ { // the whole name or its beginning, as people type
		best = min(best, edits(w, n[:length], allowed))
	}
	if best > allowed {
		return unfit
	}
	return best * perSlip
}

func slips(length int) int {
	switch {
	case length < shortest:
		return 0
	case length < longWord:
		return 1
	}
	return 2
}

// intact cuts a word into parts of which one is left whole by the slips that the word allows: each slip breaks one part, or two where it swaps letters
// across a cut, which longer words leave room for.
func intact(word string) []string {
	r := []rune(word)
	n := slips(len(r)) + 1
	if n == 1 {
		return nil
	}
	if len(r) >= 6 {
		n++
	}
	parts := make([]string, n)
	for i := range parts {
		parts[i] = string(r[i*len(r)/n : (i+1)*len(r)/n])
	}
	return parts
}

// edits counts the letters to add, drop, change or swap with their neighbour to make b of a (optimal string alignment); more than most is answered as
// most+1.
func edits(a, b []rune, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], most+1)
}
