// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // opening hours are local times

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// publicPharmacy is the profession OID to which the query nearPharmacy is limited.
const publicPharmacy = "1.2.276.0.76.4.54"

// openTolerance makes up for the time between question and display when opening hours are compared (FHIR_VZD_HOWTO_Search, "Pharmacy radius search").
const openTolerance = time.Minute

// maxOpenMinutes bounds isOpenInMinutes: a week ahead.
const maxOpenMinutes = 7 * 24 * 60

// radius is the named query near or nearPharmacy of the interface for insured people.
type radius struct {
	circle
	text, place   string
	specialties   []string
	features      []string
	organizations []string
	open          *time.Time
	count         int
}

// radiusParameters are those of the named queries; every other one is refused.
var radiusParameters = []string{"_query", "latitude", "longitude", "distance", "text", "location", "isOpenInMinutes", "specialty", "characteristics", "_count", "organization.type",
	"_format", "_pretty"}

func (s *Store) radius(query url.Values) (*radius, error) {
	bad := func(format string, a ...any) (*radius, error) {
		return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, format, a...)
	}
	for name := range query {
		if !slices.Contains(radiusParameters, name) {
			return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "the query %.40s does not know %.64s", query.Get("_query"), name)
		}
	}
	r := &radius{text: query.Get("text"), place: query.Get("location"), count: fhir.DefaultCount}
	for name, target := range map[string]*float64{"latitude": &r.latitude, "longitude": &r.longitude, "distance": &r.kilometres} {
		n, err := strconv.ParseFloat(query.Get(name), 64)
		if err != nil || math.IsNaN(n) {
			return bad("%s is required and a number", name)
		}
		*target = n
	}
	if math.Abs(r.latitude) > 90 || math.Abs(r.longitude) > 180 || r.kilometres <= 0 || r.kilometres > maxKilometres {
		return bad("latitude, longitude or distance (at most %d km) lie outside their range", maxKilometres)
	}
	list := func(name string) (all []string) {
		for _, v := range query[name] {
			for part := range strings.SplitSeq(v, ",") {
				if part = strings.TrimSpace(part); part != "" {
					all = append(all, part)
				}
			}
		}
		return all
	}
	r.specialties, r.features, r.organizations = list("specialty"), list("characteristics"), list("organization.type")
	if query.Get("_query") == "nearPharmacy" {
		r.organizations = []string{publicPharmacy}
	}
	if v := query.Get("_count"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return bad("_count is not a number")
		}
		r.count = min(max(n, 1), fhir.MaxCount)
	}
	if v := query.Get("isOpenInMinutes"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > maxOpenMinutes {
			return bad("isOpenInMinutes is a number of minutes up to %d", maxOpenMinutes)
		}
		at := s.now().Add(time.Duration(n) * time.Minute)
		r.open = &at
	}
	return r, nil
}

// Near answers the named queries near and nearPharmacy: active, visible organisations around a point, nearest first (FHIR_VZD_HOWTO_Search, "FHIR
// Operations").
func (s *Store) Near(ctx context.Context, rawQuery string, v View) (*fhir.Bundle, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil || strings.ContainsRune(rawQuery, 0) {
		return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeInvalid, "the query is not percent-encoded")
	}
	r, err := s.radius(query)
	if err != nil {
		return nil, err
	}
	f, err := s.finder(ctx, fhir.HealthcareService, true)
	if err != nil {
		return nil, err
	}
	if err := f.radius(ctx, r); err != nil {
		return nil, err
	}
	found, _, err := f.page(ctx, 0, maxCounted)
	if err != nil {
		return nil, err
	}
	resources, err := s.openOnes(ctx, found, r)
	if err != nil {
		return nil, err
	}
	bundle := fhir.NewSearchset()
	bundle.Total = len(resources)
	bundle.Link = append(bundle.Link, fhir.Link{Relation: "self", URL: v.Base + "/" + fhir.HealthcareService + "?" + rawQuery})
	include := links[fhir.HealthcareService][:2] // organisation and location: what a map shows
	return bundle, s.present(ctx, bundle, resources, include, nil, v)
}

// radius reads what a named query matches.
func (f *finder) radius(ctx context.Context, r *radius) error {
	f.active, f.near = true, &r.circle
	prefix := short[f.root] + ":"
	for word := range strings.FieldsSeq(fold(r.place)) {
		found, err := f.read(ctx, starting([]string{prefix + "location.address"}, word))
		if err != nil {
			return err
		}
		f.matches = append(f.matches, match{set: found})
	}
	texts := []string{prefix + "_text"}
	for word := range strings.FieldsSeq(fold(r.text)) { // it may stand anywhere in a word, or be nearly one
		similar, err := f.s.similar(ctx, texts[0], word, 2)
		if err != nil {
			return err
		}
		spans := []span{{param: texts[0], from: []byte{0}, to: []byte{0xff, 0xff}, inside: []byte(cut(word))}}
		for _, other := range similar {
			spans = append(spans, exactly(texts, other)...)
		}
		found, err := f.read(ctx, spans)
		if err != nil {
			return err
		}
		f.matches = append(f.matches, match{set: found})
	}
	for param, codes := range map[string][]string{"specialty": r.specialties, "characteristic": r.features, "organization.type": r.organizations} {
		if len(codes) == 0 {
			continue
		}
		var values []fhir.Value
		for _, c := range codes {
			_, code, ok := strings.Cut(c, "|")
			if !ok {
				code = c
			}
			values = append(values, fhir.Value{Parts: []string{code}})
		}
		found, err := f.read(ctx, tokenSpans(prefix+param, values))
		if err != nil {
			return err
		}
		f.matches = append(f.matches, match{set: found})
	}
	return nil
}

// openOnes reads the nearest entries until enough are open.
func (s *Store) openOnes(ctx context.Context, docs []int, r *radius) ([]*fhir.Resource, error) {
	var all []*fhir.Resource
	for len(docs) > 0 && len(all) < r.count {
		n := min(len(docs), 100)
		page, err := s.byNumber(ctx, docs[:n])
		if err != nil {
			return nil, err
		}
		for _, resource := range page {
			if len(all) < r.count && (r.open == nil || OpenAt(resource, *r.open)) {
				all = append(all, resource)
			}
		}
		docs = docs[n:]
	}
	return all, nil
}

var days = map[time.Weekday]string{time.Monday: "mon", time.Tuesday: "tue", time.Wednesday: "wed", time.Thursday: "thu", time.Friday: "fri", time.Saturday: "sat", time.Sunday: "sun"}

// OpenAt says whether a HealthcareService is open at a time by its opening hours, which are German local times. One that has none counts as open.
func OpenAt(r *fhir.Resource, at time.Time) bool {
	hours := r.At("availableTime")
	if len(hours) == 0 {
		return true
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return true // the data is part of the program
	}
	for _, h := range hours {
		if m, ok := h.(map[string]any); ok && (specialOpen(m, at) || regularOpen(m, at.In(berlin))) {
			return true
		}
	}
	return false
}

// regularOpen compares days of the week and times of the day. A time that ends before it begins goes on after midnight.
func regularOpen(hours map[string]any, at time.Time) bool {
	begin, ok1 := clock(hours["availableStartTime"])
	end, ok2 := clock(hours["availableEndTime"])
	if !ok1 || !ok2 {
		return false
	}
	names, _ := hours["daysOfWeek"].([]any)
	on := func(d time.Weekday) bool { return slices.Contains(names, any(days[d])) }
	now := time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute + time.Duration(at.Second())*time.Second
	begin, end = begin-openTolerance, end+openTolerance
	if end >= begin {
		return on(at.Weekday()) && now >= begin && now <= end
	}
	return on(at.Weekday()) && now >= begin || on((at.Weekday()+6)%7) && now <= end
}

func clock(v any) (time.Duration, bool) {
	s, ok := v.(string)
	if !ok {
		return 0, false
	}
	t, err := time.Parse("15:04:05", s)
	return t.Sub(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)), err == nil
}

// specialOpen compares the period of an extension SpecialOpeningTimesEX: emergency services and the like.
func specialOpen(hours map[string]any, at time.Time) bool {
	outer, _ := hours["extension"].([]any)
	for _, e := range outer {
		m, _ := e.(map[string]any)
		inner, _ := m["extension"].([]any)
		for _, i := range inner {
			p, _ := i.(map[string]any)
			period, ok := p["valuePeriod"].(map[string]any)
			if !ok {
				continue
			}
			start, err1 := time.Parse(time.RFC3339, fmt.Sprint(period["start"]))
			end, err2 := time.Parse(time.RFC3339, fmt.Sprint(period["end"]))
			if err1 == nil && err2 == nil && !at.Before(start.Add(-openTolerance)) && !at.After(end.Add(openTolerance)) {
				return true
			}
		}
	}
	return false
}

// Bounds of a search for nearly equal words: words compared, and taken.
const (
	maxCompared = 4000
	maxSimilar  = 40
)

// similar finds indexed words that differ from a folded word in at most so many letters and begin with the same one. The database walks from word to
// word by the index, so that its cost is bounded by how many different words there are, not by how many entries.
func (s *Store) similar(ctx context.Context, param, word string, distance int) ([]string, error) {
	if len([]rune(word)) <= 2*distance { // everything short would be similar
		return []string{word}, nil
	}
	first := string([]rune(word)[:1])
	rows, err := s.db.Query(ctx, `WITH RECURSIVE word (value) AS (
		SELECT (SELECT p.value FROM directory_posting p WHERE p.param = $1 AND p.value >= $2 AND p.value < $3 ORDER BY p.value LIMIT 1)
		UNION ALL SELECT (SELECT p.value FROM directory_posting p WHERE p.param = $1 AND p.value > word.value AND p.value < $3 ORDER BY p.value LIMIT 1)
		FROM word WHERE word.value IS NOT NULL) SELECT value FROM word WHERE value IS NOT NULL LIMIT `+strconv.Itoa(maxCompared), param, []byte(first), after(first))
	words, err := database.All(rows, err, database.Column[string])
	if err != nil {
		return nil, fmt.Errorf("directory: similar words: %w", err)
	}
	var found []string
	for _, next := range words {
		if len(found) < maxSimilar && levenshtein([]rune(next), []rune(word), distance) {
			found = append(found, next)
		}
	}
	return found, nil
}

// levenshtein says whether two words differ in at most so many insertions, deletions and replacements.
func levenshtein(a, b []rune, most int) bool {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i, x := range a {
		diagonal, least := row[0], i+1
		row[0] = i + 1
		for j, y := range b {
			cost := diagonal
			if x != y {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
			least = min(least, row[j+1])
		}
		if least > most {
			return false
		}
	}
	return row[len(b)] <= most
}

// byNumber reads entries in the order of their numbers as they are given.
func (s *Store) byNumber(ctx context.Context, docs []int) ([]*fhir.Resource, error) {
	found, err := s.numbered(ctx, docs)
	if err != nil {
		return nil, err
	}
	var all []*fhir.Resource
	for _, n := range docs {
		if r := found[n]; r != nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// numbered reads entries by their numbers.
func (s *Store) numbered(ctx context.Context, docs []int) (map[int]*fhir.Resource, error) {
	args := make([]any, len(docs))
	for i, n := range docs {
		args[i] = int64(n)
	}
	found := map[int]*fhir.Resource{}
	rows, err := s.db.Query(ctx, "SELECT e.doc, r.json FROM directory_entry e JOIN directory_resource r ON r.nid = e.nid WHERE e.doc IN ("+database.Marks(1, len(args))+")", args...)
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var doc int
		var text sql.RawBytes
		if err := rows.Scan(&doc, &text); err != nil {
			return struct{}{}, err
		}
		r, err := fhir.Parse(text)
		found[doc] = r
		return struct{}{}, err
	})
	if err != nil {
		return nil, fmt.Errorf("directory: reading: %w", err)
	}
	return found, nil
}
