//! Rules: each of our own with what it finds and what it leaves alone; files laid over them; the form for the binary.

use super::*;
use crate::secrets::{Place, text};

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGITS: &str = "0123456789";
const HEX: &str = "0123456789abcdef";

/// Signs in an order that looks random and is the same each time. Nothing in this repository may look like a token, so each
/// example is put together here.
pub(crate) fn signs(alphabet: &str, length: usize) -> String {
    let alphabet: Vec<char> = alphabet.chars().collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ (length as u64) << 7 ^ alphabet.len() as u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        alphabet[(seed >> 20) as usize % alphabet.len()]
    };
    (0..length).map(|_| next()).collect()
}

fn any(length: usize) -> String {
    signs(&[LOWER, UPPER, DIGITS].concat(), length)
}

fn hexes(length: usize) -> String {
    signs(HEX, length)
}

fn low(length: usize) -> String {
    signs(&[LOWER, DIGITS].concat(), length)
}

fn up(length: usize) -> String {
    signs(&[UPPER, DIGITS].concat(), length)
}

fn uuid() -> String {
    [8, 4, 4, 4, 12].map(hexes).join("-")
}

/// What is before the random part of a token, its length, and what it is made of.
type Format = (&'static str, &'static str, usize, fn(usize) -> String);

/// Per rule: what it finds, and what looks nearly like it. Each is put into a line of code.
fn examples() -> Vec<(&'static str, String, String)> {
    // One sign less is no token.
    let simple: Vec<Format> = vec![
        ("github-pat", "ghp_", 36, any),
        ("github-oauth", "gho_", 36, any),
        ("github-refresh-token", "ghr_", 36, any),
        ("github-app-token", "ghs_", 36, any),
        ("github-fine-grained-pat", "github_pat_", 82, any),
        ("gitlab-pat", "glpat-", 20, any),
        ("gitlab-deploy-token", "gldt-", 20, any),
        ("gitlab-feed-token", "glft-", 20, any),
        ("gitlab-runner-authentication-token", "glrt-", 20, any),
        ("gitlab-scim-token", "glsoat-", 20, any),
        ("gitlab-incoming-mail-token", "glimt-", 25, any),
        ("gitlab-kubernetes-agent-token", "glagent-", 50, any),
        ("gitlab-oauth-app-secret", "gloas-", 64, any),
        ("gitlab-feature-flag-client-token", "glffct-", 20, any),
        ("gitlab-ptt", "glptt-", 40, hexes),
        ("gitlab-rrt", "GR1348941", 20, any),
        ("gitlab-cicd-job-token", "glcbt-64_", 20, any),
        ("atlassian-cloud-token", "ATATT3", 186, any),
        ("sourcegraph-token", "sgp_", 40, hexes),
        ("aws-amazon-bedrock-api-key-long-lived", "ABSK", 109, any),
        ("gcp-api-key", "AIza", 35, any),
        ("google-oauth-secret", "GOCSPX-", 28, any),
        ("google-oauth-refresh-token", "1//0", 40, any),
        ("alibaba-access-key-id", "LTAI", 20, low),
        ("digitalocean-pat", "dop_v1_", 64, hexes),
        ("digitalocean-access-token", "doo_v1_", 64, hexes),
        ("digitalocean-refresh-token", "dor_v1_", 64, hexes),
        ("heroku-api-key-v2", "HRKU-AA", 58, any),
        ("flyio-access-token", "fo1_", 43, any),
        ("databricks-api-token", "dapi", 32, hexes),
        ("planetscale-api-token", "pscale_tkn_", 32, any),
        ("planetscale-oauth-token", "pscale_oauth_", 32, any),
        ("planetscale-password", "pscale_pw_", 32, any),
        ("supabase-token", "sbp_", 40, hexes),
        ("pulumi-api-token", "pul-", 40, hexes),
        ("vault-batch-token", "hvb.", 138, any),
        ("vault-token", "hvs.", 90, any),
        ("npm-access-token", "npm_", 36, any),
        ("rubygems-api-token", "rubygems_", 48, hexes),
        ("cratesio-token", "cio", 32, any),
        ("clojars-api-token", "CLOJARS_", 60, low),
        ("docker-pat", "dckr_pat_", 27, any),
        ("artifactory-api-key", "AKCp", 69, any),
        ("slack-config-access-token", "xoxe.xoxb-1-", 163, up),
        ("slack-config-refresh-token", "xoxe-1-", 146, up),
        ("slack-legacy-workspace-token", "xoxa-2-", 8, any),
        ("slack-webhook-url", "https://hooks.slack.com/services/", 43, any),
        ("twilio-api-key", "SK", 32, hexes),
        ("sendgrid-api-token", "SG.", 66, any),
        ("stripe-access-token", "sk_live_", 10, any),
        ("square-access-token", "sq0atp-", 22, any),
        ("shopify-access-token", "shpat_", 32, hexes),
        ("shopify-custom-access-token", "shpca_", 32, hexes),
        ("shopify-private-app-access-token", "shppa_", 32, hexes),
        ("shopify-shared-secret", "shpss_", 32, hexes),
        ("shippo-api-token", "shippo_live_", 40, hexes),
        ("easypost-api-token", "EZAK", 54, low),
        ("huggingface-access-token", "hf_", 34, any),
        ("huggingface-organization-api-token", "api_org_", 34, |n| signs(LOWER, n)),
        ("perplexity-api-key", "pplx-", 48, any),
        ("groq-key", "gsk_", 52, any),
        ("replicate-token", "r8_", 37, any),
        ("linear-api-key", "lin_api_", 40, low),
        ("figma-token", "figd_", 40, any),
        ("doppler-api-token", "dp.pt.", 43, low),
        ("grafana-cloud-api-token", "glc_", 32, any),
        ("grafana-api-key", "eyJrIjoi", 70, any),
        ("newrelic-user-key", "NRAK-", 27, up),
        ("sentry-user-token", "sntryu_", 64, hexes),
        ("sentry-org-auth-token", "sntrys_eyJ", 80, any),
        ("readme-api-token", "rdme_", 70, low),
        ("prefect-api-token", "pnu_", 36, any),
        ("typeform-token", "tfp_", 59, any),
        ("openshift-user-token", "sha256~", 43, any),
        ("age-secret-key", "AGE-SECRET-KEY-1", 58, |n| signs("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", n)),
        ("1password-service-account-token", "ops_eyJ", 250, any),
    ];
    let mut all: Vec<(&str, String, String)> = simple
        .into_iter()
        .map(|(rule, before, length, alphabet)| {
            let random = alphabet(length);
            (rule, format!("{before}{random}"), format!("{before}{}", &random[1..]))
        })
        .collect();
    let pypi = |length| format!("pypi-{}{}", ["AgEIcHlw", "aS5vcmc"].concat(), any(length));
    all.push(("pypi-upload-token", pypi(50), pypi(49)));
    let aws = signs("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16);
    all.push(("aws-access-token", format!("AKIA{aws}"), format!("AKIA{}EXAMPLE", &aws[..9])));
    let secret = signs(&[LOWER, UPPER, DIGITS, "/+"].concat(), 40);
    all.push(("aws-secret-key", format!("aws_secret_access_key = {secret} "), format!("some other key = {secret} ")));
    all.push(("azure-ad-client-secret", format!("'{}8Q~{}'", any(3), any(31)), format!("'{}8Q-{}'", any(3), any(31))));
    all.push(("azure-storage-key", format!("AccountKey={}==", any(86)), format!("AccountKey={}==", any(60))));
    let origin = |length| format!("v1.0-{}-{}", hexes(24), hexes(length));
    all.push(("cloudflare-origin-ca-key", origin(146), origin(145)));
    let terraform = |middle: &str| format!("{}.{middle}.{}", low(14), any(66));
    all.push(("hashicorp-tf-api-token", terraform("atlasv1"), terraform("atlasv2")));
    let (ten, eleven) = (signs(DIGITS, 10), signs(DIGITS, 11));
    all.push(("slack-bot-token", format!("xoxb-{ten}-{eleven}-{}", any(24)), format!("xoxb-{}", any(24))));
    let user = |parts: usize| format!("xoxp{}-{}", format!("-{ten}").repeat(parts), any(30));
    all.push(("slack-user-token", user(3), user(1)));
    all.push(("slack-app-token", format!("xapp-1-{}-{ten}-{}", up(11), low(64)), format!("xapp-{}", up(11))));
    let discord = |dot: &str| format!("discord = \"M{}.{}{dot}{}\"", any(23), any(6), any(27));
    all.push(("discord-bot-token", discord("."), discord(":")));
    let hook = |host: &str| format!("https://{host}/api/webhooks/{}/{}", signs("123456789", 18), any(68));
    all.push(("discord-webhook-url", hook("discord.com"), hook("discord.org")));
    all.push(("telegram-bot-token", format!("{ten}:AA{} ", any(33)), format!("{ten}:AB{} ", any(33))));
    let teams = |end: usize| {
        let (one, other) = (uuid(), uuid());
        format!("https://x.webhook.office.com/webhookb2/{one}@{other}/IncomingWebhook/{}/{}", hexes(end), uuid())
    };
    all.push(("microsoft-teams-webhook", teams(32), teams(31)));
    let brevo = |length| format!("xkeysib-{}-{}", hexes(64), low(length));
    all.push(("sendinblue-api-token", brevo(16), brevo(15)));
    all.push(("mailgun-key", format!("mailgun: key-{} ", hexes(32)), format!("other: key-{} ", hexes(32))));
    all.push(("mailchimp-key", format!(" {}-us12 ", hexes(32)), format!(" {}-eu12 ", hexes(32))));
    let openai = |mark: &str| format!("sk-proj-{}{mark}{}", any(58), any(58));
    all.push(("openai-api-key", openai(&["T3Blbk", "FJ"].concat()), openai("T3BlbkFK")));
    let anthropic = |kind: &str, end: &str| format!("sk-ant-{kind}-{}{end}", any(93));
    all.push(("anthropic-api-key", anthropic("api03", "AA"), anthropic("api03", "A!")));
    all.push(("anthropic-admin-api-key", anthropic("admin01", "AA"), anthropic("admin02", "AA")));
    let notion = |letters| format!("ntn_{eleven}{}", any(letters));
    all.push(("notion-api-token", notion(35), notion(34)));
    let airtable = |end| format!(" pat{}.{} ", any(14), hexes(end));
    all.push(("airtable-token", airtable(64), airtable(60)));
    let postman = |end| format!("PMAK-{}-{}", hexes(24), hexes(end));
    all.push(("postman-api-token", postman(34), postman(33)));
    let glsa = |end| format!("glsa_{}_{}", any(32), hexes(end));
    all.push(("grafana-service-account-token", glsa(8), glsa(7)));
    let dynatrace = |end| format!("dt0c01.{}.{}", low(24), low(end));
    all.push(("dynatrace-api-token", dynatrace(64), dynatrace(63)));
    let onepassword = |end| format!(" A3-{}-{}-{}-{}-{} ", up(6), up(11), up(5), signs(UPPER, 5), up(end));
    all.push(("1password-secret-key", onepassword(5), onepassword(4)));
    let jwt = |dot: &str| format!("eyJhbGciOi{}.eyJzdWIiOi{}{dot}{}", any(20), any(30), any(40));
    all.push(("jwt", jwt("."), jwt(",")));
    let dashes = "-".repeat(5);
    let pem = |kind: &str| format!("{dashes}BEGIN {kind} KEY{dashes}\n{}\n{dashes}END {kind} KEY{dashes}\n", any(128));
    all.push(("private-key", pem("RSA PRIVATE"), pem("PUBLIC")));
    all
}

fn found(rules: &Compiled, text: &str) -> Vec<String> {
    let place = [Place::file(None, *b"src/x.rs")];
    let line = format!("let it = \"{text}\";\n");
    text::scan(rules, line.as_bytes(), &place).iter().map(|hit| rules.rules[hit.rule].id.clone()).collect()
}

#[test]
fn each_of_our_rules_finds_its_format_and_leaves_alone_what_only_looks_like_it() {
    let rules = Ruleset::read(None).expect("read").compiled().expect("compiled");
    let examples = examples();
    for (rule, real, fake) in &examples {
        assert!(found(&rules, real).iter().any(|id| id == rule), "{rule} does not find {real}");
        assert!(!found(&rules, fake).iter().any(|id| id == rule), "{rule} finds {fake}");
        let dull: String = real.chars().map(|c| if c.is_ascii_alphanumeric() { 'a' } else { c }).collect();
        assert_eq!(found(&rules, &dull), Vec::<String>::new(), "{rule}: a row of one letter is no secret");
    }
    for rule in &defaults().expect("ours").rules {
        let shown = rule.regex.is_none() || examples.iter().any(|(id, _, _)| *id == rule.id);
        assert!(shown, "{} has no examples", rule.id);
    }
}

#[test]
fn a_key_store_is_found_by_its_name_alone() {
    let rules = Ruleset::read(None).expect("read").compiled().expect("compiled");
    let rule = rules.rules.iter().find(|rule| rule.id == "pkcs12-file").expect("ours");
    for (path, is) in [("certs/server.p12", true), ("a.PFX", true), ("a.p12.txt", false), ("p12/a", false)] {
        assert_eq!(rule.place.applies_at(&Place::file(None, path)), is, "{path}");
    }
}

fn compiled(file: &str) -> Arc<Compiled> {
    Ruleset::read(Some(file.as_bytes())).and_then(|rules| rules.compiled()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(file: &str) -> String {
    Ruleset::read(Some(file.as_bytes())).and_then(|rules| rules.compiled()).expect_err("refused").to_string()
}

#[test]
fn a_file_is_laid_over_the_default_rules() {
    let pat = format!("ghp_{}", any(36));
    let off = compiled("[extend]\nuseDefault = true\ndisabledRules = ['github-pat', 'no-such-rule']\n");
    assert_eq!(found(&off, &pat), Vec::<String>::new());
    let narrower = compiled("[extend]\nuseDefault = true\n[[rules]]\nid = 'github-pat'\nentropy = 7.5\n");
    assert_eq!(found(&narrower, &pat), Vec::<String>::new(), "a field is laid over, the rest stays");
    let added = compiled(
        "[extend]\nuseDefault = true\n[[rules]]\nid = 'ours'\nregex = 'ours-[0-9]{4}'\nkeywords = ['ours-']\n",
    );
    assert_eq!(found(&added, "ours-1234"), ["ours"]);
    assert_eq!(found(&added, &pat), ["github-pat"]);
    let alone = compiled("[[rules]]\nid = 'ours'\nregex = 'ours-[0-9]{4}'\n");
    assert_eq!(found(&alone, "ours-1234"), ["ours"], "no keywords: always looked for");
    assert_eq!(found(&alone, &pat), Vec::<String>::new());
    // Of a default rule of the binary that we do not have, only the changes are known: nothing to look for.
    let unknown = compiled(
        "[extend]\nuseDefault = true\n[[rules]]\nid = 'generic-api-key'\n[[rules.allowlists]]\npaths = ['a']\n",
    );
    assert!(!unknown.rules.iter().any(|rule| rule.id == "generic-api-key"));
}

#[test]
fn what_cannot_work_is_refused_with_the_rule_and_the_reason() {
    for (file, says) in [
        ("title = 'empty'\n", "nothing would be found"),
        ("[[rules]]\nid = 'x'\nregex = '(?=a)'\n", "rule `x`"),
        ("[[rules]]\nid = 'x'\nregex = '(a)\\1'\n", "back-reference"),
        ("[[rules]]\nid = 'x'\n", "neither"),
        ("[[rules]]\nid = 'x'\nregex = '(a)'\nsecretGroup = 2\n", "1 groups"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\n[[rules.required]]\nid = 'y'\n", "requires rule `y`"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\n[[rules.allowlists]]\nregexes = ['ok', '(']\n", "`(`"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\n[[allowlists]]\ntargetRules = ['y']\npaths = ['a']\n", "rule `y`"),
        ("[[rules]]\nid = 'orch-canary'\nregex = 'a'\n", "kept for"),
        ("[extend]\nuseDefault = true\npath = 'b'\n", "extend.path"),
    ] {
        assert!(refused(file).contains(says), "{file}: {}", refused(file));
    }
}

#[test]
fn lists_leave_out_by_word_pattern_target_path_commit_and_all_of_them() {
    let rule = "[[rules]]\nid = 'x'\nregex = 'key=([a-z0-9]+)'\n";
    let at = |list: &str, path: &str, text: &str| {
        let rules = compiled(&format!("{rule}{list}"));
        let commit = "a".repeat(40).parse().expect("hex");
        text::scan(&rules, text.as_bytes(), &[Place::file(Some(commit), path)]).len()
    };
    let commit = "A".repeat(40);
    for (list, path, text, left) in [
        ("", "a", "key=abc", 1),
        ("[[allowlists]]\nstopwords = ['BC']\n", "a", "key=abc", 0),
        ("[[allowlists]]\nregexes = ['^abc$']\n", "a", "key=abc", 0),
        ("[[allowlists]]\nregexes = ['^key']\n", "a", "key=abc", 1),
        ("[[allowlists]]\nregexTarget = 'match'\nregexes = ['^key']\n", "a", "key=abc", 0),
        ("[[allowlists]]\nregexTarget = 'line'\nregexes = ['# test$']\n", "a", "key=abc # test\nkey=abc", 1),
        ("[[allowlists]]\npaths = ['^tests/']\n", "tests/a", "key=abc", 0),
        ("[[allowlists]]\npaths = ['^tests/']\n", "src/a", "key=abc", 1),
        (
            "[[allowlists]]\ncondition = 'AND'\npaths = ['^tests/']\nstopwords = ['b']\n",
            "tests/a",
            "key=abc key=xyz",
            1,
        ),
        ("[[allowlists]]\ncondition = 'AND'\npaths = ['^tests/']\nstopwords = ['b']\n", "src/a", "key=abc", 1),
        ("[[rules.allowlists]]\npaths = ['^tests/']\n", "tests/a", "key=abc", 0),
        ("[[allowlists]]\ntargetRules = ['x']\nstopwords = ['b']\n", "a", "key=abc", 0),
    ] {
        assert_eq!(at(list, path, text), left, "{list} on {path}: {text}");
    }
    assert_eq!(at(&format!("[[allowlists]]\ncommits = ['{commit}']\n"), "a", "key=abc"), 0);
    // A text that stands in two places is left out only where both are.
    let rules = compiled(&format!("{rule}[[allowlists]]\npaths = ['^tests/']\n"));
    let places = [Place::file(None, *b"tests/a"), Place::file(None, *b"src/a")];
    let hits = text::scan(&rules, b"key=abc", &places);
    assert_eq!(hits[0].places, [Place::file(None, *b"src/a")]);
}

#[test]
fn a_rule_with_companions_finds_only_where_they_are_near() {
    let rules = compiled(
        "[[rules]]\nid = 'id'\nregex = 'id=[0-9]+'\nskipReport = true\n[[rules]]\nid = 'pair'\nregex = 'key=[a-z]+'\n\
         [[rules.required]]\nid = 'id'\nwithinLines = 2\n",
    );
    let hits = |text: &str| text::scan(&rules, text.as_bytes(), &[Place::file(None, *b"a")]).len();
    assert_eq!(hits("id=1\nkey=a\n"), 1);
    assert_eq!(hits("id=1\n\n\n\nkey=a\n"), 0);
    assert_eq!(hits("key=a\n"), 0);
    assert_eq!(hits("id=1\n"), 0, "a companion alone is no finding");
}

#[test]
fn encoded_tokens_are_found_with_the_line_where_they_stand() {
    let rules = Ruleset::read(None).expect("read").compiled().expect("compiled");
    let pat = format!("ghp_{}", any(36));
    let percent: String = pat.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let escapes: String = pat.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    for (wrapped, kind) in [(hex::encode(&pat), "hex"), (percent, "percent"), (escapes, "unicode escapes")] {
        let text = format!("first\nsecond = \"{wrapped}\"\nthird\n");
        let hits = text::scan(&rules, text.as_bytes(), &[Place::file(None, *b"a")]);
        let hit = hits.first().unwrap_or_else(|| panic!("{kind} is not found"));
        assert_eq!((hit.line, hit.wrapped.as_str(), hit.secret.value()), (2, kind, pat.as_bytes()));
    }
    let twice = hex::encode(hex::encode(&pat));
    assert_eq!(text::scan(&rules, twice.as_bytes(), &[Place::file(None, *b"a")]).len(), 1);
}

#[test]
fn a_text_of_many_stretches_is_read_to_its_end() {
    let rules = Ruleset::read(None).expect("read").compiled().expect("compiled");
    let pat = format!("ghp_{}", any(36));
    for at in [(1 << 20) - 60, (1 << 20) - 20, (2 << 20) + 5] {
        let mut text = "x = 1;\n".repeat(400_000).into_bytes();
        let wrapped = hex::encode(&pat);
        text[at..at + wrapped.len()].copy_from_slice(wrapped.as_bytes());
        text[at - 1] = b'\n';
        text[at + wrapped.len()] = b'\n';
        let hits = text::scan(&rules, &text, &[Place::file(None, *b"a")]);
        assert_eq!(hits.len(), 1, "{at}");
        let line = text[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        assert_eq!(hits[0].line, line as u64);
    }
}

#[test]
fn the_binary_is_given_the_same_rules_without_places() {
    let rules = Ruleset::read(Some(
        b"[extend]\nuseDefault = true\ndisabledRules = ['jwt']\n[[rules]]\nid = 'a'\nregex = 'a{2}'\npath = '\\.tf$'\n\
          [[rules]]\nid = 'b'\npath = 'key$'\n[[allowlists]]\npaths = ['^tests/']\nstopwords = ['x']\n[[allowlists]]\ncommits = ['1']\n\
          [[allowlists]]\ncondition = 'AND'\npaths = ['p']\nregexes = ['r']\n",
    ))
    .expect("read");
    let file = schema::read(rules.for_binary().expect("written").as_bytes()).expect("read again");
    assert!(file.extend.use_default);
    assert_eq!(file.extend.disabled_rules, ["jwt"]);
    let ids: Vec<&str> = file.rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["a", canary::RULE], "a rule of the path alone is ours to apply");
    assert_eq!(file.rules[0].path.as_deref(), Some(".*"));
    assert_eq!(file.allowlists.len(), 1);
    assert!(file.allowlists[0].paths.is_empty() && file.allowlists[0].stop_words == ["x"]);
}

#[test]
fn the_hash_is_that_of_the_file() {
    let file = b"[extend]\nuseDefault = true\n";
    let hash = hex::encode(Sha256::digest(file));
    assert_eq!(Ruleset::read(Some(file)).expect("read").hash(), hash);
    assert_ne!(Ruleset::read(None).expect("read").hash(), hash);
}
