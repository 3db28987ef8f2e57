// SPDX-License-Identifier: Apache-2.0

package pushrule

import (
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Kind is a class of rules; the classes are asked in the order of [Kinds].
type Kind string

// The kinds of push rules.
const (
	Override    Kind = "override"
	Content     Kind = "content"
	PostContent Kind = "postcontent" // MSC4306; holds rules of the server only
	Room        Kind = "room"
	Sender      Kind = "sender"
	Underride   Kind = "underride"
)

// Kinds lists the kinds in the order in which they are asked.
var Kinds = [...]Kind{Override, Content, PostContent, Room, Sender, Underride}

// Rule is one push rule as clients see it. Conditions and actions are kept as they came, so that nothing unknown is lost.
type Rule struct {
	ID         string           `json:"rule_id"`
	Default    bool             `json:"default"`
	Enabled    bool             `json:"enabled"`
	Conditions []jsontext.Value `json:"conditions,omitzero"`
	Pattern    *string          `json:"pattern,omitzero"`
	Actions    []jsontext.Value `json:"actions"`
}

// Ruleset is a user's rules, each list in the order of priority: for every kind the user's own rules before the server's, except that
// .m.rule.master is always first.
type Ruleset struct {
	Override    []Rule `json:"override"`
	Content     []Rule `json:"content"`
	PostContent []Rule `json:"postcontent"`
	Room        []Rule `json:"room"`
	Sender      []Rule `json:"sender"`
	Underride   []Rule `json:"underride"`
}

// Of returns the list of a kind, nil for an unknown kind.
func (rs *Ruleset) Of(k Kind) *[]Rule {
	switch k {
	case Override:
		return &rs.Override
	case Content:
		return &rs.Content
	case PostContent:
		return &rs.PostContent
	case Room:
		return &rs.Room
	case Sender:
		return &rs.Sender
	case Underride:
		return &rs.Underride
	}
	return nil
}

// Find returns the rule of a kind and id, or nil.
func (rs *Ruleset) Find(k Kind, ruleID string) *Rule {
	list := rs.Of(k)
	if list == nil {
		return nil
	}
	for i := range *list {
		if (*list)[i].ID == ruleID {
			return &(*list)[i]
		}
	}
	return nil
}

// Place says where a rule goes: directly above or below a rule of the user's own. Before wins when both are given; neither is the top for a
// new rule and no move for one that is there.
type Place struct{ Before, After string }

// Put inserts or replaces a user's own rule. It answers false when the rule named by the place is not one of the user's own of that kind.
func (rs *Ruleset) Put(k Kind, r Rule, at Place) bool {
	list := rs.Of(k)
	if list == nil {
		return false
	}
	index := func(ruleID string) int {
		return slices.IndexFunc(*list, func(o Rule) bool { return o.ID == ruleID && !o.Default })
	}
	old := index(r.ID)
	anchor := at.Before
	if anchor == "" {
		anchor = at.After
	}
	if anchor == r.ID {
		anchor, at = "", Place{}
	}
	if anchor != "" && index(anchor) < 0 {
		return false
	}
	if old >= 0 {
		r.Enabled = (*list)[old].Enabled
		if anchor == "" {
			(*list)[old] = r
			return true
		}
		*list = slices.Delete(*list, old, old+1)
	}
	to := 0
	switch {
	case at.Before != "":
		to = index(at.Before)
	case at.After != "":
		to = index(at.After) + 1
	case len(*list) > 0 && (*list)[0].ID == master:
		to = 1
	}
	*list = slices.Insert(*list, to, r)
	return true
}

// Delete removes a user's own rule; false when there is none.
func (rs *Ruleset) Delete(k Kind, ruleID string) bool {
	list := rs.Of(k)
	if list == nil {
		return false
	}
	n := len(*list)
	*list = slices.DeleteFunc(*list, func(r Rule) bool { return r.ID == ruleID && !r.Default })
	return len(*list) < n
}

// Merge brings a stored rule set up to the server's present defaults for the user: default rules keep what the user changed in them (enabled,
// actions), those that the server no longer knows go, new ones appear in their place.
func (rs Ruleset) Merge(user id.User) Ruleset {
	out := Default(user)
	for _, k := range Kinds {
		stored, list := *rs.Of(k), out.Of(k)
		var own []Rule
		for _, r := range stored {
			if !r.Default {
				own = append(own, r)
				continue
			}
			if d := out.Find(k, r.ID); d != nil {
				d.Enabled, d.Actions = r.Enabled, r.Actions
			}
		}
		to := 0
		if len(*list) > 0 && (*list)[0].ID == master {
			to = 1
		}
		*list = slices.Insert(*list, to, own...)
	}
	return out
}

// CountsAsDefault says whether the rule set leads to the same notifications and highlights as the default one: nothing but sounds differs.
func (rs Ruleset) CountsAsDefault(user id.User) bool {
	def := Default(user)
	for _, k := range Kinds {
		mine, theirs := *rs.Of(k), *def.Of(k)
		if len(mine) != len(theirs) {
			return false
		}
		for i := range mine {
			a, b := readActions(mine[i].Actions), readActions(theirs[i].Actions)
			if mine[i].ID != theirs[i].ID || mine[i].Enabled != theirs[i].Enabled || a.Notify != b.Notify || a.Highlight != b.Highlight {
				return false
			}
		}
	}
	return true
}
