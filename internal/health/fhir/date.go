// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"slices"
	"strings"
	"time"
)

// DateRange is the value of a date parameter: how to compare, and the time that the value stands for, which is a day for "2026-11-25" and a second for
// "2026-11-25T10:30:00Z" (FHIR R4, 3.1.1.4.6 and 3.1.1.5.1). From is in it, To is not.
type DateRange struct {
	Prefix   string // eq, ne, gt, ge, lt, le, sa or eb
	From, To time.Time
}

// datePrefixes are those that are known; ap, which means "about", is not.
var datePrefixes = []string{"eq", "ne", "gt", "ge", "lt", "le", "sa", "eb"}

// dateForms are the forms of a value with what one unit of each adds. Times without a zone are UTC.
var dateForms = []struct {
	layout string
	end    func(time.Time) time.Time
}{
	{"2006", func(t time.Time) time.Time { return t.AddDate(1, 0, 0) }},
	{"2006-01", func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }},
	{"2006-01-02", func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }},
	{"2006-01-02T15:04", func(t time.Time) time.Time { return t.Add(time.Minute) }},
	{"2006-01-02T15:04Z07:00", func(t time.Time) time.Time { return t.Add(time.Minute) }},
	{"2006-01-02T15:04:05", secondEnd},
	{"2006-01-02T15:04:05Z07:00", secondEnd},
}

// secondEnd ends a second, or a millisecond where the time has a fraction, which the layouts let through.
func secondEnd(t time.Time) time.Time {
	if t.Nanosecond() != 0 {
		return t.Truncate(time.Millisecond).Add(time.Millisecond)
	}
	return t.Add(time.Second)
}

// ParseDate reads a value of a date parameter. It answers false for what is none.
func ParseDate(value string) (DateRange, bool) {
	d := DateRange{Prefix: "eq"}
	if len(value) > 2 && slices.Contains(datePrefixes, value[:2]) {
		d.Prefix, value = value[:2], value[2:]
	}
	value = strings.Replace(value, " ", "+", 1) // a plus sign that was not percent-encoded
	for _, form := range dateForms {
		if t, err := time.Parse(form.layout, value); err == nil {
			d.From, d.To = t, form.end(t)
			if t.Nanosecond() != 0 {
				d.From = t.Truncate(time.Millisecond)
			}
			return d, true
		}
	}
	return d, false
}

// Holds compares a time with the value.
func (d DateRange) Holds(t time.Time) bool {
	switch d.Prefix {
	case "ne":
		return t.Before(d.From) || !t.Before(d.To)
	case "gt", "sa":
		return !t.Before(d.To)
	case "ge":
		return !t.Before(d.From)
	case "lt", "eb":
		return t.Before(d.From)
	case "le":
		return t.Before(d.To)
	}
	return !t.Before(d.From) && t.Before(d.To)
}
