// SPDX-License-Identifier: Apache-2.0

package permission

import (
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// field reads a string field of an object; "" when it is absent or of another type.
func field(content jsontext.Value, name string) string {
	var c map[string]jsontext.Value
	var s string
	if json.Unmarshal(content, &c) != nil || json.Unmarshal(c[name], &s) != nil {
		return ""
	}
	return s
}

// relates is m.relates_to of an event's content.
func relates(content jsontext.Value) jsontext.Value {
	var c map[string]jsontext.Value
	if json.Unmarshal(content, &c) != nil {
		return nil
	}
	return c["m.relates_to"]
}

func relType(content jsontext.Value) string { return field(relates(content), "rel_type") }

func reactionKey(content jsontext.Value) string { return field(relates(content), "key") }

const (
	zeroWidthJoiner = 0x200D
	textSelector    = 0xFE0E
	emojiSelector   = 0xFE0F
	keycap          = 0x20E3
)

// oneEmoji says whether a text is exactly one emoji as a person sees it: a pictograph with its selectors and skin tone, several joined by
// zero-width joiners, a flag of two regional indicators, a flag of tags, or a keycap.
func oneEmoji(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	runes := []rune(s)
	switch {
	case regional(runes[0]):
		return len(runes) == 2 && regional(runes[1])
	case keycapBase(runes[0]):
		rest := runes[1:]
		if len(rest) > 0 && rest[0] == emojiSelector {
			rest = rest[1:]
		}
		return len(rest) == 1 && rest[0] == keycap
	}
	i := 0
	for {
		if i >= len(runes) || !pictograph(runes[i]) {
			return false
		}
		for i++; i < len(runes) && modifier(runes[i]); {
			i++
		}
		if i == len(runes) {
			return true
		}
		if runes[i] != zeroWidthJoiner {
			return false
		}
		i++
	}
}

func regional(r rune) bool { return r >= 0x1F1E6 && r <= 0x1F1FF }

func keycapBase(r rune) bool { return r == '#' || r == '*' || (r >= '0' && r <= '9') }

// modifier: variation selectors, skin tones, tags of flags.
func modifier(r rune) bool {
	return r == textSelector || r == emojiSelector || (r >= 0x1F3FB && r <= 0x1F3FF) || (r >= 0xE0020 && r <= 0xE007F)
}

// pictograph covers the blocks of Unicode that hold emoji.
func pictograph(r rune) bool {
	switch {
	case r >= 0x1F000 && r <= 0x1FAFF && !regional(r),
		r >= 0x2600 && r <= 0x27BF,
		r >= 0x2190 && r <= 0x21FF,
		r >= 0x2300 && r <= 0x23FF,
		r >= 0x25A0 && r <= 0x25FF,
		r >= 0x2900 && r <= 0x297F,
		r >= 0x2B00 && r <= 0x2BFF,
		r == 0xA9, r == 0xAE, r == 0x203C, r == 0x2049, r == 0x2122, r == 0x2139, r == 0x24C2, r == 0x3030, r == 0x303D, r == 0x3297, r == 0x3299:
		return true
	}
	return false
}
