"""Words that look like somebody's and are nobody's."""

from __future__ import annotations


def word_set(words: str) -> frozenset[str]:
    """The words of a text, for what is easier to read as one."""
    return frozenset(words.split())


# What stands where a name would.
NO_NAMES = word_set("""
    a about ai alexa all am amazon american an and any anybody anyone apple april assistant at
    august australian away back board bot but by canadian captain chat chatgpt chinese christian
    christmas claude colleague colleagues college committee company congratulations congressman
    customer customers dad day december department diary doctor editor english european
    everybody everyone false father february fellow finance first folks for french friday friend
    friends from full general gentlemen german god going google gpt grandma grandpa guest guys
    hiring hospital hr human i if in indian insert investor investors it italian january
    japanese java javascript jewish july june ladies last life lord lovely ma madam manager
    march marketing mayor microsoft minister mom monday mother mum muslim my name neighbor
    neighbour new no nobody none not november null october of office officer on or our parent
    parents please president prime principal professor python reader readers recruiter
    recruitment resident sales santa saturday school senator september sir siri sirs so somebody
    someone sorry spanish string student students subscriber sunday support team thank thanks
    the there this thursday to today tomorrow true tuesday under university user username valued
    very we wednesday what where who why world yes you your
""")

# What companies are called by: no name holds one.
COMPANIES = word_set("gmbh ag kg inc llc ltd corp plc bank foundation institute services solutions")

# People of stories and of history: a prompt about them tells nothing of who wrote it.
KNOWN = word_set("""
    aladdin aragorn batman bean bennet biden bilbo bingley bond bourne bovary chips churchill
    cinderella claus clinton curie dalloway darcy darwin dolittle doofenshmirtz dracula draper
    dre dumbledore einstein evil fauci faust feynman frankenstein freud frodo gandalf gandhi
    gatsby granger hamlet hannibal hawking holmes hyde jekyll kenobi krabs lecter legolas
    lincoln macbeth macron magoo manhattan marple marvel mcgonagall merkel mickey moriarty
    mozart mulan musk napoleon newton obama octopus oz pac-man peanut peppa pepper pickwick
    pinocchio poirot popeye poppins potato potter putin quixote robot rochester romeo scrooge
    seuss shakespeare sherlock skywalker smithers snape snowman sparrow spock strange
    strangelove suess sulu superman t tesla toad tolkien trump tumnus turing watson weasley who
    wonka x xavier zhivago zorro
""")

# Addresses of an office, not of a person, and of nobody.
ROLES = word_set("""
    abuse admin billing careers contact feedback git hello help hr info jobs mail marketing
    media newsletter no-reply noreply office orders postmaster press privacy root sales security
    service support team user username webmaster you your-email your.email youremail
""")

# Card numbers that payment services publish for tests.
TEST_CARDS = word_set("""
    2223003122003222 30569309025904 3530111333300000 371449635398431 378282246310005
    4000000000000002 4000056655665556 4012888888881881 4111111111111111 4222222222222
    4242424242424242 5105105105105100 5555555555554444 6011000990139424 6011111111111117
""")
