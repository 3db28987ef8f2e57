// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"embed"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

//go:embed page.html
var pageFiles embed.FS

var pageTemplate = template.Must(template.ParseFS(pageFiles, "page.html"))

// words are the page's texts in one language.
type words struct {
	Lang, Other, OtherName                                      string
	Title, Lead, Warning, Starting                              string
	Organisations, People, Connect, Try, Address, Login, Secret string
	Copy, Copied, Institution, Person, Function, SignIn, Card   string
	Directory, Members, Written, Running                        string
	ConnectText, TryText, NoWeb                                 string
}

var german = words{
	Lang: "de", Other: "en", OtherName: "English",
	Title: "Konsil – das Demonstrationsnetz", Lead: "Zwei Anbieter, ihre Institutionen und die zentralen Dienste laufen auf diesem Rechner. Alles ist echt, nur die Karten und Personen sind erfunden.",
	Warning: "Nicht von der gematik zugelassen, nur Demonstrationskarten, noch nicht für echte Patientinnen und Patienten.", Starting: "Das Netz startet. Diese Seite lädt sich gleich neu.",
	Organisations: "Institutionen", People: "Personen", Connect: "Mit einem Matrix-Client verbinden", Try: "Zuerst ausprobieren", Address: "Serveradresse", Login: "Anmeldename", Secret: "Passwort",
	Copy: "Kopieren", Copied: "Kopiert", Institution: "Institution", Person: "Person", Function: "Aufgabe", SignIn: "Anmeldung als", Card: "Kartennummer",
	Directory: "Einträge im Verzeichnis", Members: "Mitglieder der Föderation", Written: "Änderungen seit dem Start", Running: "läuft seit",
	ConnectText: "Jeder Matrix-Client geht. Tragen Sie die Serveradresse ein und melden Sie sich mit dem vollen Namen aus der Liste an.",
	TryText:     "Melden Sie sich als Anna Weber an und laden Sie Ben Hoffmann aus dem Klinikum ein: Die Nachrichten gehen Ende-zu-Ende-verschlüsselt von einem Anbieter zum anderen.",
	NoWeb:       "Der eigene Web-Messenger kommt später; diese Seite ist bewusst schlicht.",
}

var english = words{
	Lang: "en", Other: "de", OtherName: "Deutsch",
	Title: "Konsil – the demonstration network", Lead: "Two providers, their institutions and the central services run on this machine. Everything is real, only the cards and the people are invented.",
	Warning: "Not approved by gematik, demonstration cards only, not for real patients yet.", Starting: "The network is starting. This page reloads in a moment.",
	Organisations: "Institutions", People: "People", Connect: "Connect a Matrix client", Try: "Try first", Address: "Server address", Login: "User name", Secret: "Password",
	Copy: "Copy", Copied: "Copied", Institution: "Institution", Person: "Person", Function: "Role", SignIn: "Sign in as", Card: "Card number",
	Directory: "directory entries", Members: "members of the federation", Written: "changes since the start", Running: "running for",
	ConnectText: "Any Matrix client will do. Enter the server address and sign in with the full name from the list.",
	TryText:     "Sign in as Anna Weber and invite Ben Hoffmann of the hospital: the messages go end-to-end encrypted from one provider to the other.",
	NoWeb:       "Our own web messenger comes later; this page is plain on purpose.",
}

// language chooses by ?lang= and else by the browser's first language.
func language(r *http.Request) words {
	wanted := r.URL.Query().Get("lang")
	if wanted == "" {
		wanted = r.Header.Get("Accept-Language")
	}
	if strings.HasPrefix(strings.ToLower(wanted), "de") {
		return german
	}
	return english
}

// shown is what the page shows.
type shown struct {
	words
	Ready     bool
	URL       string
	Password  string
	Providers []shownProvider
	Counters  counters
}

type shownProvider struct {
	Name          string
	Organisations []shownOrganisation
}

type shownOrganisation struct {
	Organisation
	People []shownPerson
}

type shownPerson struct {
	Name, Role, SignIn, Card string
}

// counters are the page's live figures.
type counters struct {
	Ready     bool  `json:"ready"`
	Directory int   `json:"directory"`
	Members   int   `json:"members"`
	Written   int64 `json:"written"`
	Seconds   int   `json:"seconds"`
}

// page serves the network's page and its figures.
func (n *Network) page() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-store")
		_ = pageTemplate.Execute(w, n.show(r)) // the reader is gone if this fails
	})
	mux.HandleFunc("GET /demo/status.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.MarshalWrite(w, n.counters(r)) // the reader is gone if this fails
	})
	return mux
}

func (n *Network) show(r *http.Request) shown {
	s := shown{words: language(r), URL: n.URL, Password: Password, Counters: n.counters(r)}
	s.Ready = s.Counters.Ready
	for i, name := range Providers {
		p := shownProvider{Name: name}
		for _, o := range Cast {
			if o.Provider != i {
				continue
			}
			so := shownOrganisation{Organisation: o}
			for _, person := range o.People {
				card := person.TelematikID
				if person.KVNR != "" {
					card = person.KVNR
				}
				so.People = append(so.People, shownPerson{person.Title(), person.Role, "@" + person.Login() + ":" + string(o.Server), card})
			}
			p.Organisations = append(p.Organisations, so)
		}
		s.Providers = append(s.Providers, p)
	}
	return s
}

// running is what the counters read; it is set once everything is up.
type running struct {
	mu    sync.RWMutex
	ready bool
}

func (r *running) set() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
}

func (r *running) is() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ready
}

func (n *Network) counters(r *http.Request) counters {
	c := counters{Ready: n.running.is(), Seconds: int(time.Since(n.started).Seconds())}
	if !c.Ready {
		return c
	}
	if people, organisations, err := n.Central.Directory.Store().Size(r.Context()); err == nil {
		c.Directory = people + organisations
	}
	if domains, err := n.Central.List.Domains(r.Context(), ""); err == nil {
		c.Members = len(domains)
	}
	for _, p := range n.Providers {
		c.Written += p.Server.Commits().Plans
	}
	return c
}
