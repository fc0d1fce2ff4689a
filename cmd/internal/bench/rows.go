package main

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"time"
)

// table is one table of schema.sql, how its rows are made, and what a later change does to them.
type table struct {
	name    string
	perUser int // rows for eight users
	row     func(*maker, int)
	update  string // SET list, or "" where rows stay as they were written
	delete  bool   // rows go again
}

// tables, in an order in which references lead back. Row i of a table is always the same row, whenever and in whichever
// order it is made, and lies at the point i/n of the product's life: so people's rows lie together as they do where rows
// are written when something happens.
var tables = []table{
	{name: "users", perUser: 8, row: (*maker).user, update: `settings = jsonb_set(settings, '{ui,seen}', to_jsonb(updated_at + interval '1 hour')), ` +
		`last_ip = '198.51.100.77', updated_at = updated_at + interval '1 hour'`},
	{name: "organisations", perUser: 1, row: (*maker).organisation, update: `plan = 'business', name = name || ' Ltd'`},
	{name: "memberships", perUser: 10, row: (*maker).membership},
	{name: "projects", perUser: 3, row: (*maker).project, update: `description = left(description, 90) || ' ' || md5(description)`},
	{name: "documents", perUser: 8, row: (*maker).document,
		update: `body = overlay(body placing md5(body) from length(body) / 2 for 12), updated_at = updated_at + interval '1 hour'`},
	{name: "comments", perUser: 40, row: (*maker).comment, update: `body = body || ' (' || left(md5(body), 8) || ')'`},
	{name: "messages", perUser: 28, row: (*maker).message, update: `read_at = coalesce(read_at, sent_at) + interval '1 hour'`},
	{name: "likes", perUser: 64, row: (*maker).like, delete: true},
	{name: "follows", perUser: 20, row: (*maker).follow},
	{name: "sessions", perUser: 12, row: (*maker).session, update: `last_seen_at = last_seen_at + interval '1 hour'`, delete: true},
	{name: "events", perUser: 56, row: (*maker).event},
	{name: "notifications", perUser: 16, row: (*maker).notification, update: `seen = NOT seen`, delete: true},
	{name: "customers", perUser: 2, row: (*maker).customer, update: `address = 'Moved to ' || md5(address)`},
	{name: "orders", perUser: 8, row: (*maker).order, update: `status = 'returned', note = 'Sent back ' || md5(number)`},
	{name: "payments", perUser: 9, row: (*maker).payment},
	{name: "audit_log", perUser: 8, row: (*maker).audit},
}

// population is how many rows each table has, by its place in tables.
type population []int

// usersPerGB makes COPY text of about one GB.
const usersPerGB = 97_000

// populationOf returns the numbers of rows of a database of size GB, or of one that is small but works.
func populationOf(size float64) population { return populationOfUsers(int(size * usersPerGB)) }

// populationOfUsers rounds the users up to a multiple of eight, so that every table has a whole number of rows for each.
func populationOfUsers(n int) population {
	eights := max((n+7)/8, 100)
	p := make(population, len(tables))
	for i, t := range tables {
		p[i] = eights * t.perUser
	}
	return p
}

func (p population) users() int { return p[0] }

func (p population) rows() (n int) {
	for _, k := range p {
		n += k
	}
	return n
}

// The life of the product.
var (
	lifeBegins = time.Date(2024, 1, 8, 9, 0, 0, 0, time.UTC)
	lifeSpan   = 2 * 365 * 24 * time.Hour
)

// maker writes rows as COPY text.
type maker struct {
	v         *vocabulary
	scattered bool       // later rows are anybody's, not those of people who came of late
	base      population // at the point 1 of the product's life

	users, orgs, projects, documents, customers, orders float64 // of base

	random
	t   float64 // the point of life of the row under construction: 0 begins, 1 is now, beyond are changes
	row []byte
}

func newMaker(v *vocabulary, base population, scattered bool) *maker {
	n := func(perUser int) float64 { return float64(base.users() / 8 * perUser) }
	return &maker{v: v, scattered: scattered, base: base, users: n(8), orgs: n(1), projects: n(3), documents: n(8), customers: n(2), orders: n(8)}
}

// make writes row i of a table.
func (m *maker) make(t, i int) []byte {
	m.row = m.row[:0]
	m.t = float64(i) / float64(m.base[t])
	m.seed(uint64(t)+10, uint64(i))
	tables[t].row(m, i)
	m.row[len(m.row)-1] = '\n'
	return m.row
}

// key is the first column of row i of a table: its key, where rows of it change.
func (m *maker) key(t, i int) []byte {
	key, _, _ := bytes.Cut(m.make(t, i), []byte{'\t'})
	return key
}

// copyReader is the COPY text of some rows of a table.
type copyReader struct {
	m       *maker
	table   int
	next    func() (i int, ok bool)
	left    []byte
	bytes   int64
	longest int
}

func (c *copyReader) Read(p []byte) (n int, err error) {
	for {
		k := copy(p[n:], c.left)
		n += k
		if c.left = c.left[k:]; len(c.left) > 0 {
			return n, nil
		}
		i, ok := c.next()
		if !ok {
			if n == 0 {
				return 0, io.EOF
			}
			return n, nil
		}
		c.left = c.m.make(c.table, i)
		c.bytes += int64(len(c.left))
		c.longest = max(c.longest, len(c.left))
	}
}

// sequence counts from a to b-1.
func sequence(a, b int) func() (int, bool) {
	return func() (int, bool) { a++; return a - 1, a <= b }
}

// shuffled is 0 to n-1 in an order without any order, always the same: a Feistel network over the next power of four,
// stepped until it falls below n.
func shuffled(n int) func() (int, bool) {
	half := uint(1)
	for 1<<(2*half) < n {
		half++
	}
	mask := uint64(1)<<half - 1
	i := 0
	return func() (int, bool) {
		if i == n {
			return 0, false
		}
		x := uint64(i)
		i++
		for {
			l, r := x>>half, x&mask
			for round := range uint64(4) {
				l, r = r, l^mix(r+round<<40)&mask
			}
			if x = l<<half | r; x < uint64(n) {
				return int(x), true
			}
		}
	}
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Who and what a row is about -------------------------------------------------------------------------------------

// uuid is the key of row i of the table with uuid keys.
type uuid struct {
	table byte
	i     int
}

const hexDigits = "0123456789abcdef"

func (u uuid) append(dst []byte) []byte {
	a := mix(uint64(u.table)<<56 | uint64(u.i)<<1)
	b := mix(a)
	a = a&^0xf000 | 0x4000
	b = b&^(3<<62) | 2<<62
	for k := range 32 {
		if k == 8 || k == 12 || k == 16 || k == 20 {
			dst = append(dst, '-')
		}
		w := a
		if k >= 16 {
			w = b
		}
		dst = append(dst, hexDigits[w>>(60-4*(k%16))&15])
	}
	return dst
}

func (u uuid) String() string { return string(u.append(nil)) }

func user(i int) uuid { return uuid{1, i} }

// recent draws one of what is n in all at the point 1 and grows evenly: mostly of late, seen from the row's own point, now
// and then from far back.
func (m *maker) recent(n, near float64) int {
	if m.scattered && m.t >= 1 {
		return m.n(int(n))
	}
	newest := m.t * n
	back := m.exponential(near * n)
	if m.oneIn(12) {
		back = m.exponential(n / 5)
	}
	if back > newest {
		return m.n(int(newest) + 1)
	}
	return int(newest - back)
}

func (m *maker) someone() uuid       { return user(m.recent(m.users, 0.004)) }
func (m *maker) someDocument() int   { return m.recent(m.documents, 0.002) }
func (m *maker) at(t float64) string { return m.when(t).Format("2006-01-02 15:04:05.000000+00") }
func (m *maker) when(t float64) time.Time {
	return lifeBegins.Add(time.Duration(t * float64(lifeSpan)))
}

// Values ------------------------------------------------------------------------------------------------------------

func (m *maker) s(s string)       { m.row = append(append(m.row, s...), '\t') }
func (m *maker) null()            { m.s(`\N`) }
func (m *maker) int(n int)        { m.row = append(strconv.AppendInt(m.row, int64(n), 10), '\t') }
func (m *maker) uuid(u uuid)      { m.row = append(u.append(m.row), '\t') }
func (m *maker) id(i int)         { m.int(i + 1) }
func (m *maker) add(parts string) { m.row = append(m.row, parts...) }
func (m *maker) end()             { m.row = append(m.row, '\t') }

func (m *maker) bool(b bool) {
	if b {
		m.s("t")
		return
	}
	m.s("f")
}

// time writes a time of the row's own day.
func (m *maker) time(t float64) {
	const layout = "2006-01-02 15:04:05.000000+00"
	m.row = append(m.when(t+float64(m.n(1<<20))/(1<<20)*1e-9).AppendFormat(m.row, layout), '\t')
}

// maybe writes a value, or NULL for one in k.
func (m *maker) maybe(k int, write func()) {
	if m.oneIn(k) {
		m.null()
		return
	}
	write()
}

func (m *maker) hex(n int) {
	for ; n > 0; n -= 16 {
		w := m.bits()
		for k := range min(n, 16) {
			m.row = append(m.row, hexDigits[w>>(4*k)&15])
		}
	}
}

func (m *maker) word() string { return m.v.words[m.v.word[m.bits()>>48]] }
func (m *maker) name() string { return m.v.names[m.v.name[m.bits()>>52]] }

func (m *maker) pick(list []string) string { return list[m.n(len(list))] }

// often picks from the front of a list more than from its back.
func (m *maker) often(list []string) string {
	return list[min(int(m.exponential(float64(len(list))/5)), len(list)-1)]
}

// text writes about n words in sentences and paragraphs.
func (m *maker) text(n int) {
	for n > 0 {
		length := min(4+m.n(16), n)
		n -= length
		first := len(m.row)
		for k := 0; k < length; k++ {
			if k > 0 {
				if m.oneIn(12) {
					m.row = append(m.row, ',')
				}
				m.row = append(m.row, ' ')
			}
			if m.oneIn(5) {
				m.add(m.v.phrases[m.v.phrase[m.bits()>>52]])
				k += 2
				continue
			}
			m.add(m.word())
		}
		m.row[first] -= 'a' - 'A'
		switch m.n(12) {
		case 0:
			m.row = append(m.row, '?')
		case 1:
			m.row = append(m.row, '!')
		default:
			m.row = append(m.row, '.')
		}
		switch {
		case n <= 0:
		case m.oneIn(6):
			m.row = append(m.row, `\n\n`...)
		default:
			m.row = append(m.row, ' ')
		}
	}
}

func (m *maker) words(n int) {
	for k := range n {
		if k > 0 {
			m.row = append(m.row, ' ')
		}
		m.add(m.word())
	}
}

func (m *maker) ip() {
	if m.oneIn(4) {
		m.row = fmt.Appendf(m.row, "2001:db8:%x:%x:%x:%x:%x:%x", m.n(9000)+1, m.n(65000)+1, m.n(65000)+1, m.n(65000)+1, m.n(65000)+1, m.n(65000)+1)
	} else {
		m.row = fmt.Appendf(m.row, "%d.%d.%d.%d", 11+m.n(200), m.n(256), m.n(256), 1+m.n(254))
	}
	m.end()
}

func (m *maker) money(n int) { m.row = fmt.Appendf(m.row, "%d.%02d", n/100, n%100); m.end() }

var (
	locales    = []string{"en_GB", "en_US", "de_DE", "sv_SE", "fr_FR", "es_ES", "pl_PL", "pt_BR", "ja_JP", "nl_NL"}
	zones      = []string{"Europe/Berlin", "Europe/Stockholm", "America/New_York", "Europe/London", "America/Sao_Paulo", "Asia/Tokyo", "UTC"}
	hosts      = []string{"mail.example", "post.example", "work.example", "inbox.example", "letters.example", "firm.example"}
	plans      = []string{"free", "team", "business"}
	eventNames = []string{"page.view", "document.open", "document.edit", "search", "comment.write", "file.upload", "project.open", "login",
		"share.open", "export", "settings.open", "invite.send", "logout", "error.shown"}
	notices  = []string{"comment", "mention", "like", "invite", "share", "digest"}
	actions  = []string{"login", "role.change", "export.start", "invite.accept", "plan.change", "token.create", "user.lock"}
	agents   = makeAgents()
	products = []string{"Seat, monthly", "Seat, yearly", "Storage 100 GB", "Storage 1 TB", "Onboarding", "Support, priority", "Print credit", "Archive"}
)

func makeAgents() []string {
	var list []string
	for v := 140; v > 90; v-- {
		list = append(list,
			fmt.Sprintf("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36", v),
			fmt.Sprintf("Mozilla/5.0 (X11; Linux x86_64; rv:%d.0) Gecko/20100101 Firefox/%d.0", v, v),
			fmt.Sprintf("Mozilla/5.0 (iPhone; CPU iPhone OS %d_%d like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/%d.0 Mobile/15E148 Safari/604.1",
				v/8, v%8, v/8))
	}
	return list
}

// Rows --------------------------------------------------------------------------------------------------------------

func (m *maker) user(i int) {
	first, last := m.name(), m.name()
	m.uuid(user(i))
	m.row = fmt.Appendf(m.row, "%s.%s%d@%s", first, last, i, m.often(hosts))
	m.end()
	m.row = fmt.Appendf(m.row, "%s_%d", first, i)
	m.end()
	m.s(first + " " + last)
	m.maybe(3, func() { m.row = fmt.Appendf(m.row, "+46 70 %07d", m.n(10_000_000)); m.end() })
	m.maybe(4, func() { m.s(time.Date(1950, 1, 1+m.n(20_000), 0, 0, 0, 0, time.UTC).Format(time.DateOnly)) })
	m.add("$2b$12$")
	m.hex(53)
	m.end()
	if m.oneIn(40) {
		m.hex(32)
		m.end()
	} else {
		m.null()
	}
	m.row = fmt.Appendf(m.row, `{"ui": {"seen": "%s", "theme": "%s", "density": %d, "sidebar": %t}, "mail": {"digest": %t, "mentions": %t, "product": %t}, `+
		`"editor": {"font": "%s", "spaces": %d, "spelling": %t}, "shortcuts": {"save": "ctrl+s", "search": "ctrl+k"}, "onboarding": [`,
		m.at(m.t), m.pick([]string{"dark", "light", "system"}), m.n(3), m.oneIn(2), m.oneIn(3), !m.oneIn(4), m.oneIn(2),
		m.often([]string{"Inter", "Georgia", "Menlo"}), 2+2*m.n(2), m.oneIn(2))
	for k := range 1 + m.n(5) {
		if k > 0 {
			m.add(", ")
		}
		m.row = fmt.Appendf(m.row, `"step-%d"`, k)
	}
	m.s(`]}`)
	m.maybe(6, m.ip)
	m.s(m.often(locales))
	m.s(m.often(zones))
	m.maybe(2, func() { m.text(8 + m.n(50)); m.end() })
	if i > 20 && !m.oneIn(3) {
		m.uuid(user(i - 1 - min(i-1, int(m.exponential(m.users/500)))))
	} else {
		m.null()
	}
	m.time(m.t)
	m.time(m.t)
}

func (m *maker) organisation(i int) {
	name := m.name() + " " + m.name()
	m.id(i)
	m.row = fmt.Appendf(m.row, "%s-%d", m.word(), i)
	m.end()
	m.s(name)
	m.s(m.often(plans))
	m.row = fmt.Appendf(m.row, `{"sso": %t, "seats": %d, "domains": ["%s.example"], "branding": {"color": "#%06x", "logo": "/logos/%d.svg"}, "retention": {"days": %d}}`,
		m.oneIn(9), 5*(1+m.n(12)), m.word(), m.n(1<<24), i, 30*(1+m.n(12)))
	m.end()
	m.maybe(10, func() { m.uuid(m.someone()) })
	m.time(m.t)
}

// membership gives each user an organisation, and every fourth a second one.
func (m *maker) membership(i int) {
	u := i/5*4 + i%5
	if i%5 == 4 {
		u = i/5*4 + m.n(4)
	}
	org := u / 8
	if i%5 == 4 { // another one, and of those that are there at this time
		if other := 1 + m.n(3); org >= other {
			org -= other
		} else {
			org += other
		}
	}
	m.id(org)
	m.uuid(user(u))
	m.s(m.often([]string{"member", "admin", "guest", "owner"}))
	m.maybe(3, func() { m.uuid(m.someone()) })
	m.time(m.t)
}

func (m *maker) project(i int) {
	m.id(i)
	m.id(m.recent(m.orgs, 0.01))
	m.maybe(12, func() { m.uuid(m.someone()) })
	m.words(2 + m.n(4))
	m.end()
	m.maybe(4, func() { m.text(10 + m.n(60)); m.end() })
	m.row = fmt.Appendf(m.row, `{"board": {"columns": ["Open", "Doing", "Review", "Done"], "limit": %d}, "labels": ["%s", "%s"], "access": "%s", "integrations": {"chat": "#%s", "builds": %t}}`,
		3+m.n(9), m.word(), m.word(), m.often([]string{"team", "private", "public"}), m.word(), m.oneIn(3))
	m.end()
	m.bool(m.oneIn(10))
	m.time(m.t)
}

func (m *maker) document(i int) {
	m.id(i)
	m.id(m.recent(m.projects, 0.005))
	m.uuid(m.someone())
	m.words(3 + m.n(7))
	m.end()
	n := 20 + int(m.exponential(220))
	if m.oneIn(4000) {
		n += 8000 + m.n(30_000) // somebody's book
	}
	m.text(n)
	m.end()
	m.add("{")
	for k := range m.n(4) {
		if k > 0 {
			m.add(",")
		}
		m.add(m.word())
	}
	m.s("}")
	m.int(n)
	m.time(m.t)
	m.time(m.t)
}

func (m *maker) comment(i int) {
	m.id(i)
	m.id(m.someDocument())
	m.uuid(m.someone())
	if i > 100 && m.oneIn(3) {
		m.id(i - 1 - m.n(100))
	} else {
		m.null()
	}
	m.text(4 + int(m.exponential(22)))
	m.end()
	m.time(m.t)
}

func (m *maker) message(i int) {
	m.id(i)
	m.uuid(m.someone())
	m.maybe(30, func() { m.uuid(m.someone()) })
	m.text(6 + int(m.exponential(55)))
	m.end()
	m.time(m.t)
	m.maybe(5, func() { m.time(m.t) })
}

func (m *maker) like(i int) {
	m.id(i)
	m.uuid(m.someone())
	m.id(m.someDocument())
	m.time(m.t)
}

// follow lets a user follow two or three others who were there before.
func (m *maker) follow(i int) {
	const step = 40
	u := i * 2 / 5
	k := i - (u*5+1)/2 // 0, 1 or 2
	whom := u - 1 - k*step - int(mix(uint64(u))%step)
	if whom < 0 {
		whom += int(m.users)
	}
	m.uuid(user(u))
	m.uuid(user(whom))
	m.time(m.t)
}

func (m *maker) session(i int) {
	m.uuid(uuid{2, i})
	m.uuid(m.someone())
	m.hex(64)
	m.end()
	m.ip()
	m.s(m.often(agents))
	m.time(m.t)
	m.time(m.t + float64(m.n(1000))*1e-6)
}

func (m *maker) event(i int) {
	m.id(i)
	m.time(m.t)
	m.maybe(10, func() { m.uuid(m.someone()) })
	m.maybe(3, func() { m.uuid(uuid{2, i * 3 / 14}) })
	m.s(m.often(eventNames))
	m.row = fmt.Appendf(m.row, `{"ms": %d, "path": "/o/%d/p/%d", "view": {"w": %d, "h": %d}`, 3+int(m.exponential(120)), m.recent(m.orgs, 0.01)+1,
		m.recent(m.projects, 0.005)+1, m.one(1280, 1920, 390, 2560), m.one(720, 1080, 844, 1440))
	if m.oneIn(3) {
		m.row = fmt.Appendf(m.row, `, "query": "%s %s"`, m.word(), m.word())
	}
	if m.oneIn(2) {
		m.row = fmt.Appendf(m.row, `, "experiment": "%s-%d"`, m.often([]string{"nav", "editor", "pricing", "search"}), m.n(3))
	}
	m.s("}")
}

func (m *maker) one(list ...int) int { return list[m.n(len(list))] }

func (m *maker) notification(i int) {
	m.uuid(uuid{3, i})
	m.uuid(m.someone())
	kind := m.often(notices)
	m.s(kind)
	m.row = fmt.Appendf(m.row, `{"by": "%s", "text": "`, m.someone())
	m.words(3 + m.n(8))
	m.row = fmt.Appendf(m.row, `", "document": %d}`, m.someDocument()+1)
	m.end()
	m.bool(!m.oneIn(4))
	m.time(m.t)
}

func (m *maker) customer(i int) {
	first, last := m.name(), m.name()
	m.id(i)
	m.maybe(8, func() { m.uuid(m.someone()) })
	m.s(first + " " + last)
	m.row = fmt.Appendf(m.row, "billing.%s%d@%s", last, i, m.often(hosts))
	m.end()
	m.row = fmt.Appendf(m.row, `%s street %d\n%05d %s`, m.name(), 1+m.n(200), m.n(100_000), m.name())
	m.end()
	m.maybe(2, func() { m.row = fmt.Appendf(m.row, "SE%010d01", m.n(10_000_000_000)); m.end() })
	m.time(m.t)
}

// buyer is the customer of an order; payments know it too.
func (m *maker) buyer(order int) int {
	of := maker{scattered: m.scattered, t: float64(order) / m.orders}
	of.seed(1, uint64(order))
	return of.recent(m.customers, 0.05)
}

func (m *maker) order(i int) {
	m.id(i)
	m.id(m.buyer(i))
	m.row = fmt.Appendf(m.row, "SO-%d-%08d", m.when(m.t).Year(), i)
	m.end()
	m.s(m.often([]string{"shipped", "paid", "open", "returned"}))
	m.s(m.often([]string{"EUR", "SEK", "USD", "GBP"}))
	total, items := 0, 1+m.n(4)
	lines := make([]byte, 0, 512)
	for k := range items {
		price, n := 900+m.n(40_000), 1+m.n(9)
		total += price * n
		if k > 0 {
			lines = append(lines, ", "...)
		}
		lines = fmt.Appendf(lines, `{"sku": "P-%04d", "name": "%s", "price": %d.%02d, "quantity": %d}`, m.n(4000), m.often(products), price/100, price%100, n)
	}
	m.money(total)
	m.row = fmt.Appendf(m.row, "[%s]", lines)
	m.end()
	m.maybe(3, func() {
		m.row = fmt.Appendf(m.row, `%s %s, %s street %d, %05d %s`, m.name(), m.name(), m.name(), 1+m.n(200), m.n(100_000), m.name())
		m.end()
	})
	if m.oneIn(5) {
		m.text(4 + m.n(20))
		m.end()
	} else {
		m.null()
	}
	m.time(m.t)
}

func (m *maker) payment(i int) {
	m.id(i)
	m.id(i * 8 / 9)
	m.id(m.buyer(i * 8 / 9))
	m.money(900 + m.n(200_000))
	m.maybe(3, func() { m.s(m.name() + " " + m.name()) })
	m.maybe(3, func() {
		m.row = fmt.Appendf(m.row, "SE%02d5000%016d", 10+m.n(89), m.bits()%10_000_000_000_000_000)
		m.end()
	})
	m.add("pi_")
	m.hex(24)
	m.end()
	m.time(m.t)
}

func (m *maker) audit(i int) {
	m.id(i)
	m.time(m.t)
	m.maybe(4, func() { m.uuid(m.someone()) })
	m.s(m.often(actions))
	m.row = fmt.Appendf(m.row, `{"user_id": "%s", "request": "`, m.someone())
	m.hex(16)
	m.row = fmt.Appendf(m.row, `", "from": {"role": "%s"}, "to": {"role": "%s"}, "note": "`, m.pick([]string{"member", "guest"}), m.pick([]string{"admin", "owner"}))
	m.words(2 + m.n(10))
	m.s(`"}`)
}
