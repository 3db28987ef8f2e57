// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"embed"
	"html/template"
	"net"
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
	Register, RegisterText, RegisterHere                        string
	Proof, ByCard, PIN, SignInHere                              string
}

var german = words{
	Lang: "de", Other: "en", OtherName: "English",
	Title: "Konsil – das Demonstrationsnetz", Lead: "Zwei Anbieter, ihre Institutionen und die zentralen Dienste laufen auf diesem Rechner. Alles ist echt, nur die Karten und Personen sind erfunden.",
	Warning: "Nicht von der gematik zugelassen, nur Demonstrationskarten, noch nicht für echte Patientinnen und Patienten.", Starting: "Das Netz startet. Diese Seite lädt sich gleich neu.",
	Organisations: "Institutionen", People: "Personen", Connect: "Mit einem Matrix-Client verbinden", Try: "Zuerst ausprobieren", Address: "Serveradresse", Login: "Anmeldename", Secret: "Passwort",
	Copy: "Kopieren", Copied: "Kopiert", Institution: "Institution", Person: "Person", Function: "Aufgabe", SignIn: "Anmeldung als", Card: "Kartennummer",
	Directory: "Einträge im Verzeichnis", Members: "Mitglieder der Föderation", Written: "Änderungen seit dem Start", Running: "läuft seit",
	ConnectText: "Jeder Matrix-Client geht. Tragen Sie die Serveradresse ein; zum Anmelden öffnet er den Browser. Dort geben Sie den vollen Namen aus der Liste ein und wählen die Karte – der Kartendienst fragt nach der PIN – oder Passwort und Code.",
	Register:    "Eine Praxis anmelden", RegisterHere: "Zur Anmeldung einer Institution",
	RegisterText: "Die Praxis am See hat ihre Institutionskarte, aber noch keinen Messenger. Öffnen Sie die Anmeldung, wählen Sie am Kartendienst ihre Karte, richten Sie eine Authenticator-App ein und nehmen Sie den Namen praxis-am-see. Danach legen Sie Personen an und tragen sie ins Verzeichnis ein: Sie sind sofort zu finden und anzuschreiben.",
	TryText:      "Melden Sie sich als Anna Weber an und laden Sie Ben Hoffmann aus dem Klinikum ein: Die Nachrichten gehen Ende-zu-Ende-verschlüsselt von einem Anbieter zum anderen.",
	NoWeb:        "Der eigene Web-Messenger kommt später; diese Seite ist bewusst schlicht.",
	Proof:        "Zweiter Nachweis", ByCard: "Karte", PIN: "PIN aller Karten", SignInHere: "Im Browser anmelden",
}

var english = words{
	Lang: "en", Other: "de", OtherName: "Deutsch",
	Title: "Konsil – the demonstration network", Lead: "Two providers, their institutions and the central services run on this machine. Everything is real, only the cards and the people are invented.",
	Warning: "Not approved by gematik, demonstration cards only, not for real patients yet.", Starting: "The network is starting. This page reloads in a moment.",
	Organisations: "Institutions", People: "People", Connect: "Connect a Matrix client", Try: "Try first", Address: "Server address", Login: "User name", Secret: "Password",
	Copy: "Copy", Copied: "Copied", Institution: "Institution", Person: "Person", Function: "Role", SignIn: "Sign in as", Card: "Card number",
	Directory: "directory entries", Members: "members of the federation", Written: "changes since the start", Running: "running for",
	ConnectText: "Any Matrix client will do. Enter the server address; it opens the browser to sign in. Enter the full name from the list there and choose the card – the card service asks for the PIN – or password and code.",
	Register:    "Register a practice", RegisterHere: "Register an institution",
	RegisterText: "The Praxis am See has its institution card, but no messenger yet. Open the registration, choose its card at the card service, set up an authenticator app and take the name praxis-am-see. Then add people and enter them in the directory: they can be found and written to at once.",
	TryText:      "Sign in as Anna Weber and invite Ben Hoffmann of the hospital: the messages go end-to-end encrypted from one provider to the other.",
	NoWeb:        "Our own web messenger comes later; this page is plain on purpose.",
	Proof:        "Second proof", ByCard: "Card", PIN: "PIN of every card", SignInHere: "Sign in in the browser",
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
	CardPIN   string
	Providers []shownProvider
	Counters  counters
}

type shownProvider struct {
	Name          string
	Organisations []shownOrganisation
}

type shownOrganisation struct {
	Organisation
	Account string // its account page
	People  []shownPerson
}

type shownPerson struct {
	Name, Role, SignIn, Card string
	// Code is what the authenticator app of who has no card shows; empty for a card.
	Code string
}

// counters are the page's live figures.
type counters struct {
	Ready     bool  `json:"ready"`
	Directory int   `json:"directory"`
	Members   int   `json:"members"`
	Written   int64 `json:"written"`
	Seconds   int   `json:"seconds"`
	// Codes are those of the authenticator apps, by the name to sign in with.
	Codes map[string]string `json:"codes"`
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
	s := shown{words: language(r), URL: n.URL, Password: Password, CardPIN: PIN, Counters: n.counters(r)}
	s.Ready = s.Counters.Ready
	for i, name := range Providers {
		p := shownProvider{Name: name}
		for _, o := range Cast {
			if o.Provider != i {
				continue
			}
			so := shownOrganisation{Organisation: o, Account: n.accountPage(o)}
			for _, person := range o.People {
				card := person.TelematikID
				if person.KVNR != "" {
					card = person.KVNR
				}
				shown := shownPerson{Name: person.Title(), Role: person.Role, SignIn: "@" + person.Login() + ":" + string(o.Server), Card: card}
				if person.TelematikID == "" {
					shown.Code = appCode(person.Login())
				}
				so.People = append(so.People, shown)
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
	c.Codes = map[string]string{}
	for _, o := range Cast {
		for _, p := range o.People {
			if p.TelematikID == "" {
				c.Codes["@"+p.Login()+":"+string(o.Server)] = appCode(p.Login())
			}
		}
	}
	for _, p := range n.Providers {
		c.Written += p.Server.Commits().Plans
	}
	return c
}

// accountPage is an organisation's own sign-in in the browser: its host name is one of this machine.
func (n *Network) accountPage(o Organisation) string {
	_, port, err := net.SplitHostPort(strings.TrimPrefix(n.URL, "http://"))
	if err != nil {
		return n.URL
	}
	return "http://" + string(o.Server) + ":" + port + "/_matrix/account"
}
