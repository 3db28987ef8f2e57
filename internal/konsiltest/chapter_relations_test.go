// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// relations: reactions, edits, replies in a thread and their redaction, as both servers put them together.
func (s *storybook) relations() {
	room := s.create(s.anna, "related", map[string]any{"preset": "private_chat", "invite": []string{s.berta.User}})
	s.enter(s.berta, room, s.anna)
	about := func(kind, eid string, more map[string]any) map[string]any {
		content := map[string]any{"m.relates_to": map[string]any{"rel_type": kind, "event_id": eid}}
		for k, v := range more {
			content[k] = v
		}
		return content
	}
	text := func(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }
	root := s.say(s.anna, room, "Wurzel", s.berta)
	like := s.tells(s.berta, room, "reaction", "m.reaction", map[string]any{"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": root, "key": "👍"}}, s.anna)
	s.tells(s.anna, room, "edit", "m.room.message", about("m.replace", root, map[string]any{"msgtype": "m.text", "body": "* Stamm", "m.new_content": text("Stamm")}), s.berta)
	s.tells(s.berta, room, "not hers to edit", "m.room.message", about("m.replace", root, map[string]any{"msgtype": "m.text", "body": "* Ast", "m.new_content": text("Ast")}), s.anna)
	s.tells(s.berta, room, "first in the thread", "m.room.message", about("m.thread", root, text("eins")), s.anna)
	s.tells(s.anna, room, "second in the thread", "m.room.message", about("m.thread", root, text("zwei")), s.berta)
	s.try(s.berta, "PUT", in(room)+"/redact/"+url.PathEscape(like)+"/z1", map[string]any{})
	s.until(s.anna, "the redaction of the reaction", func() bool {
		_, list := s.anna.Try("GET", "/_matrix/client/v1/"+in(room)+"/relations/"+url.PathEscape(root)+"/m.annotation", nil)
		return konsiltest.At(list, "chunk", 0) == nil
	})
	for _, who := range []*konsiltest.Session{s.anna, s.berta, s.carl} {
		for _, kind := range []string{"", "/m.annotation", "/m.thread", "/m.replace"} {
			list := s.try(who, "GET", "/_matrix/client/v1/"+in(room)+"/relations/"+url.PathEscape(root)+kind, nil)
			chunk, _ := list["chunk"].([]any)
			for _, e := range chunk {
				s.note("  related: %v by %v: %s", konsiltest.At(e, "type"), konsiltest.At(e, "sender"), s.sorted(konsiltest.At(e, "content")))
			}
		}
		threads := s.try(who, "GET", "/_matrix/client/v1/"+in(room)+"/threads", nil)
		s.note("  thread: %v, %v", konsiltest.At(threads, "chunk", 0, "content", "body"), konsiltest.At(threads, "chunk", 0, "unsigned", "m.relations", "m.thread", "count"))
		_, e := who.Try("GET", client+in(room)+"/event/"+url.PathEscape(root), nil)
		s.note("  replaced: %v", konsiltest.At(e, "unsigned", "m.relations", "m.replace", "content", "m.new_content", "body"))
	}
}
