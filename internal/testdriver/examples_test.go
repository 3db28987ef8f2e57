// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// api is a client interface as the suite's filters see it.
type api struct {
	name, url, homeserver string
	tags                  []string
	status                int // of the last answer
}

// row is one way to fill the columns of an example table.
type row []*api

// rules are the annotations above an example table.
type rules struct {
	filters                     []filter
	sameServer, distinctServers bool
	selfCombine, doubleLineup   bool
	once                        []string // columns that have each homeserver once
}

// filter is one @Filter: alternatives of conjunctions, as the suite's files write them.
type filter [][]condition

// condition is a comparison of two columns' homeservers, or a tag that a column must have.
type condition struct {
	not          bool
	column, with string // with: the other column, empty for a tag
	tag          string
}

var (
	hasTag   = regexp.MustCompile(`^(!?)(\w+)\.hasTag\("(\w+)"\)$`)
	sameHost = regexp.MustCompile(`^(!?)(\w+)\.properties\["homeserver"\]\.equals\((\w+)\.properties\["homeserver"\]\)$`)
)

// parseRules reads the tags of an example table. An annotation that it does not know is an error: it would change what is tested.
func parseRules(tags []string) (rules, error) {
	var r rules
	for _, t := range tags {
		name, argument, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(t, "@"), ")"), "(")
		var err error
		switch name {
		case "Filter":
			var f filter
			f, err = parseFilter(argument)
			r.filters = append(r.filters, f)
		case "EqualProperty":
			r.sameServer = true
		case "DistinctProperty":
			r.distinctServers = true
		case "AllowSelfCombine":
			r.selfCombine = argument == "true"
		case "AllowDoubleLineup":
			r.doubleLineup = argument == "true"
		case "Shuffle": // the order does not matter here
		case "MaxSameColumnProperty": // "Column,homeserver,1": so many rows for each homeserver of a column; there are two rows at most
			column, limit, _ := strings.Cut(argument, ",")
			switch limit {
			case "homeserver,1":
				r.once = append(r.once, column)
			case "homeserver,2":
			default:
				err = fmt.Errorf("unknown limit in %q", t)
			}
		default:
			err = fmt.Errorf("unknown annotation %q", t)
		}
		if err == nil && (name == "EqualProperty" || name == "DistinctProperty") && argument != "homeserver" {
			err = fmt.Errorf("unknown property in %q", t)
		}
		if err != nil {
			return rules{}, err
		}
	}
	return r, nil
}

func parseFilter(text string) (filter, error) {
	var f filter
	for _, alternative := range strings.Split(text, "||") {
		var all []condition
		for _, part := range strings.Split(alternative, "&&") {
			part = strings.TrimPrefix(strings.TrimSpace(part), "(") // a conjunction in brackets
			if strings.Count(part, ")") > strings.Count(part, "(") {
				part = strings.TrimSuffix(part, ")")
			}
			switch tag, host := hasTag.FindStringSubmatch(part), sameHost.FindStringSubmatch(part); {
			case tag != nil:
				all = append(all, condition{not: tag[1] == "!", column: tag[2], tag: tag[3]})
			case host != nil:
				all = append(all, condition{not: host[1] == "!", column: host[2], with: host[3]})
			default:
				return nil, fmt.Errorf("unknown filter %q", part)
			}
		}
		f = append(f, all)
	}
	return f, nil
}

func (c condition) holds(columns []string, r row) bool {
	of := func(name string) *api { return r[slices.Index(columns, name)] }
	if c.with != "" {
		return (of(c.column).homeserver == of(c.with).homeserver) != c.not
	}
	return slices.Contains(of(c.column).tags, c.tag) != c.not
}

func (f filter) holds(columns []string, r row) bool {
	return slices.ContainsFunc(f, func(all []condition) bool {
		return !slices.ContainsFunc(all, func(c condition) bool { return !c.holds(columns, r) })
	})
}

func (r rules) hold(columns []string, chosen row) bool {
	servers, names := map[string]bool{}, map[string]bool{}
	for _, a := range chosen {
		servers[a.homeserver], names[a.name] = true, true
	}
	if r.sameServer && len(servers) != 1 || r.distinctServers && len(servers) != len(chosen) || !r.selfCombine && len(names) != len(chosen) {
		return false
	}
	return !slices.ContainsFunc(r.filters, func(f filter) bool { return !f.holds(columns, chosen) })
}

// fill chooses rows for a table: one within a homeserver and one over several, as far as the annotations allow both.
func (r rules) fill(columns []string, apis []*api) []row {
	var within, across row
	chosen := make(row, len(columns))
	var choose func(i int)
	choose = func(i int) {
		if within != nil && across != nil {
			return
		}
		if i < len(columns) {
			for _, a := range apis {
				chosen[i] = a
				choose(i + 1)
			}
			return
		}
		if !r.hold(columns, chosen) {
			return
		}
		to := &within
		if slices.ContainsFunc(chosen, func(a *api) bool { return a.homeserver != chosen[0].homeserver }) {
			to = &across
		}
		if *to == nil {
			*to = slices.Clone(chosen)
		}
	}
	choose(0)
	var rows []row
	for _, found := range []row{within, across} {
		if found != nil && !slices.ContainsFunc(rows, func(earlier row) bool { return r.repeats(columns, earlier, found) }) {
			rows = append(rows, found)
		}
	}
	return rows
}

// repeats says whether two rows have the same homeserver in a column that takes each only once.
func (r rules) repeats(columns []string, a, b row) bool {
	return slices.ContainsFunc(r.once, func(column string) bool {
		i := slices.Index(columns, column)
		return i >= 0 && a[i].homeserver == b[i].homeserver
	})
}
