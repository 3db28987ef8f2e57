// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
)

// Screen writes the start screen: what runs where, who can sign in, what to try first.
func (n *Network) Screen(w io.Writer, folder string) {
	fmt.Fprintf(w, `
  Konsil – a small national network on this machine
  Not approved by gematik. Demonstration cards only. Not for real patients.

  Page and clients   %s
  Card service       %s   everybody's card is inserted there
  Central services   %s   directory, cards, federation list
  Provider %-9s %s   federation (HTTPS)
  Provider %-9s %s   federation (HTTPS)
  Data               %s

  Sign in with any Matrix client at the address above: in the browser, by card (every card's PIN is %s), or,
  without a card, with the password %s and the code that the page above shows. For example as
`, n.URL, n.Agent, n.Central.URL, n.Providers[0].Name, n.Providers[0].federation, n.Providers[1].Name, n.Providers[1].federation, folder, PIN, Password)
	for _, o := range Cast {
		fmt.Fprintf(w, "\n    %s\n", o.Name)
		for _, p := range o.People[:min(len(o.People), 2)] {
			fmt.Fprintf(w, "      %-28s @%s:%s\n", p.Title(), p.Login(), o.Server)
		}
	}
	fmt.Fprintf(w, `
  Try first: open %s, sign in as Anna Weber, invite Ben Hoffmann of the Klinikum Nord and write to him.
  Or watch a whole consultation:  konsil demo --tour
  Stop with Ctrl-C.
`, n.URL)
}
