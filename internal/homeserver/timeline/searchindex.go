// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// indexStep is how many events one transaction puts into the index.
	indexStep = 500
	// maxWords and maxWord bound what is kept of one event: different words, and bytes of a word.
	maxWords = 500
	maxWord  = 64
	// maxTerms is how many words a search looks for, maxFound how many events it considers, the newest first.
	maxTerms = 8
	maxFound = 1000
)

// words cuts a text into its folded words, in order.
func words(text string) []string {
	folded := cases.Fold().String(norm.NFKC.String(text))
	list := strings.FieldsFunc(folded, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r) })
	for i, w := range list {
		for len(w) > maxWord {
			runes := []rune(w)
			w = string(runes[:len(runes)-1])
		}
		list[i] = w
	}
	return list
}

// searchText is the text by which an event is found, and the key that it stands under.
func searchText(e *room.Event) (key, text string) {
	var c struct {
		Body  any `json:"body"`
		Name  any `json:"name"`
		Topic any `json:"topic"`
	}
	if json.Unmarshal(e.Content(), &c) != nil {
		return "", ""
	}
	var value any
	switch e.Type() {
	case "m.room.message":
		key, value = "content.body", c.Body
	case "m.room.name":
		key, value = "content.name", c.Name
	case "m.room.topic":
		key, value = "content.topic", c.Topic
	}
	text, _ = value.(string)
	return key, text
}

// index brings the index of a tenant up to its present position.
func (s *Service) index(ctx context.Context, t tenant.ID) (int64, error) {
	to, err := s.rooms.Feed.Position(ctx, t)
	if err != nil {
		return 0, err
	}
	for {
		var from int64
		err := s.rooms.DB.QueryRow(ctx, "SELECT position FROM search_progress WHERE tenant = $1", int64(t)).Scan(&from)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
		if from >= to {
			return to, nil
		}
		events, err := s.rooms.Searchable(ctx, t, from, to, indexStep)
		if err != nil {
			return 0, err
		}
		reached := to
		if len(events) == indexStep {
			reached = events[len(events)-1].Position
		}
		if err := s.addWords(ctx, t, events, reached); err != nil {
			return 0, err
		}
	}
}

// addWords writes the words of some events. Two searches may do it at once: a repetition changes nothing.
func (s *Service) addWords(ctx context.Context, t tenant.ID, events []*room.Event, reached int64) error {
	return s.rooms.DB.Write(ctx, func(tx *database.Tx) error {
		for _, e := range events {
			_, text := searchText(e)
			if err := insertWords(ctx, tx, t, e, words(text)); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO search_progress (tenant, position) VALUES ($1, $2)
			ON CONFLICT (tenant) DO UPDATE SET position = excluded.position WHERE search_progress.position < excluded.position`, int64(t), reached)
		return err
	})
}

// wordColumns is how many values one row of search_word has.
const wordColumns = 6

func insertWords(ctx context.Context, tx *database.Tx, t tenant.ID, e *room.Event, all []string) error {
	times := map[string]int64{}
	for _, w := range all {
		if _, known := times[w]; known || len(times) < maxWords {
			times[w]++
		}
	}
	list := make([]string, 0, len(times))
	for w := range times {
		list = append(list, w)
	}
	slices.Sort(list) // in one order, so that two searches do not wait for each other in a circle
	for chunk := range slices.Chunk(list, database.MaxMarks/wordColumns) {
		var b strings.Builder
		b.WriteString("INSERT INTO search_word (tenant, word, event, room, position, weight) VALUES ")
		args := make([]any, 0, len(chunk)*wordColumns)
		for i, w := range chunk {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString("(" + database.Marks(1+i*wordColumns, wordColumns) + ")")
			args = append(args, int64(t), w, e.NID, e.RoomNID, e.Position, times[w]*1000/int64(len(all)))
		}
		b.WriteString(" ON CONFLICT (tenant, word, event) DO NOTHING")
		if _, err := tx.Exec(ctx, b.String(), args...); err != nil {
			return err
		}
	}
	return nil
}

// hit is an event that holds all the words looked for.
type hit struct {
	event    id.Event
	room     int64
	position int64
	weight   int64
}

// find looks up the newest events up to a position that hold all the words, in some rooms, ordered as asked for.
func (s *Service) find(ctx context.Context, t tenant.ID, terms []string, rooms []int64, upTo int64, byRank bool) ([]hit, error) {
	var hits []hit
	for chunk := range slices.Chunk(rooms, database.MaxMarks) {
		query := "SELECT e.event_id, w.room, w.position, w.weight"
		from, where := " FROM search_word w JOIN event e ON e.tenant = w.tenant AND e.event = w.event", " WHERE w.tenant = $1 AND e.tenant = $1 AND w.word = $2"
		args := []any{int64(t), terms[0]}
		for _, term := range terms[1:] {
			args = append(args, term)
			mark := database.Marks(len(args), 1)
			where += " AND EXISTS (SELECT 1 FROM search_word o WHERE o.tenant = $1 AND o.event = w.event AND o.word = " + mark + ")"
		}
		args = append(args, upTo)
		where += " AND w.position <= " + database.Marks(len(args), 1)
		where += " AND w.room IN (" + database.Marks(len(args)+1, len(chunk)) + ")"
		for _, r := range chunk {
			args = append(args, r)
		}
		args = append(args, maxFound)
		rows, err := s.rooms.DB.Query(ctx, query+from+where+" ORDER BY w.position DESC LIMIT "+database.Marks(len(args), 1), args...)
		found, err := database.All(rows, err, func(rows *sql.Rows) (h hit, err error) {
			return h, rows.Scan(&h.event, &h.room, &h.position, &h.weight)
		})
		if err != nil {
			return nil, err
		}
		hits = append(hits, found...)
	}
	newest := func(a, b hit) int { return cmp.Compare(b.position, a.position) }
	slices.SortFunc(hits, newest)
	hits = hits[:min(len(hits), maxFound)]
	if byRank {
		slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Compare(b.weight, a.weight) })
	}
	return hits, nil
}
