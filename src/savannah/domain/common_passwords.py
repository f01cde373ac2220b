"""Passwords so common that guessing begins with them; eight or more characters, lower case.

Shorter ones are refused for their length, so they are not listed.
"""

from __future__ import annotations

from typing import Final

COMMON_PASSWORDS: Final = frozenset(
    # A list of a thousand strings would only be longer to read.
    """
    password password1 password12 password123 password1234 password12345 password123456 password!
    password1! password123! password01 password02 password00 password11 password22 password69
    password99 password007 password2020 password2021 password2022 password2023 password2024
    password2025 password2026 passwords passwordpassword mypassword mypassword1 thepassword
    passw0rd passw0rd1 passw0rd123 passw0rd! p@ssword p@ssword1 p@ssword123 p@ssw0rd p@ssw0rd1
    p@ssw0rd123 p@ssw0rd! p@$$w0rd p@$$word pa$$w0rd pa$$word pa55word pa55w0rd passwort passwort1
    passwort123 motdepasse contrasena contraseña parola123 senha123 wachtwoord 12345678 123456789
    1234567890 12345678910 123456789a 123456789q 123456789z 1234567891 12345678a 12345678q
    12345678z a12345678 a123456789 q12345678 abc12345 abc123456 abc1234567 abc123456789 abcd1234
    abcd12345 abcd123456 abcde123 abcde12345 abcdef12 abcdef123 abcdefgh abcdefg1 abcdefg123
    abcdefghi abcdefghij abcdefghijk abcabc123 abc123abc abc123abc123 123abc123 1234abcd 12345abc
    12345abcd 123456abc 123456ab 12345qwe 123456qw 123456qwe 123456qwerty 12345qwert 1234qwer
    123qweasd 123qweasdzxc 123qwe123 123qwe123qwe 123123123 123123123123 1231231234 123321123
    123321123321 1234554321 12344321 1234567a 1234567q 1234567z 123454321 1234512345 12341234
    123412341234 11112222 11111111 111111111 1111111111 111222333 111222333444 11223344 1122334455
    112233445566 12121212 1212121212 121212121212 123456654321 12345654321 123456123456
    12345612345678 13131313 13579246 1357924680 135792468 147258369 147852369 1472583690 159357159
    159753159753 159753456 159357456 16161616 18181818 19191919 19841984 19851985 19861986 19871987
    19881988 19891989 19901990 19911991 19921992 20002000 20102010 20202020 20212021 20222022
    20232023 20242024 20252025 20262026 21212121 22222222 222222222 23232323 23456789 234567890
    25252525 25802580 258025800 31415926 314159265 33333333 333333333 36925814 369258147 44444444
    456123789 45645645 456456456 54321543 55555555 555555555 5555555555 55667788 56565656 66666666
    666666666 69696969 6969696969 741852963 7418529630 74107410 77777777 777777777 7777777777
    789456123 7894561230 789789789 78945612 87654321 876543210 88888888 888888888 8888888888
    963852741 987654321 9876543210 98765432 987654321a 99999999 999999999 9999999999 00000000
    000000000 0000000000 01010101 0123456789 01234567 012345678 00112233 0987654321 098765432
    09876543 1020304050 10203040 10101010 1010101010 a1234567 a123123123 a1b2c3d4 a1b2c3d4e5
    1a2b3c4d 1a2b3c4d5e aa123456 aa12345678 aaa11111 aaa111222 aaaa1111 aaaaaaaa aaaaaaaaa
    aaaaaaaaaa asd12345 asd123456 asd123asd asdasd123 asdasd11 asdasdasd asdf1234 asdf12345
    asdfasdf asdfasdfasdf asdfqwer asdfghjk asdfghjkl asdfghjkl1 asdfghjkl123 asdfghjkl; asdfgh123
    asdfgh01 asdfg123 asdfg12345 asdfjkl; qazwsxed qazwsxedc qazwsxedc123 qazwsxedcrfv qazwsx123
    qazwsx12 qazqazqaz qaz123456 qaz12345 qaz123wsx qazxsw123 qazxswedc 1qaz2wsx 1qaz2wsx3edc
    1qaz2wsx3edc4rfv 1qaz!qaz 1qazxsw2 1qaz@wsx !qaz2wsx !qaz1qaz zaq12wsx zaq1xsw2 zaq1zaq1
    zaq!2wsx xsw2zaq1 2wsx3edc 3edc4rfv 1q2w3e4r 1q2w3e4r5t 1q2w3e4r5t6y 1q2w3e4r5t6y7u 1q2w3e4r!
    1q2w3e4r1 q1w2e3r4 q1w2e3r4t5 q1w2e3r4t5y6 q1q1q1q1 1q1q1q1q qwe12345 qwe123456 qwe123qwe
    qwe123asd qwe123456789 qweasd123 qweasdzxc qweasdzxc123 qweasdqwe qweqwe123 qweqweqwe qwer1234
    qwer12345 qwer4321 qwerasdf qwerqwer qwert123 qwert1234 qwert12345 qwertasdfg qwerty11 qwerty12
    qwerty123 qwerty123! qwerty1234 qwerty12345 qwerty123456 qwerty21 qwerty22 qwerty321 qwerty69
    qwerty77 qwerty99 qwerty00 qwerty01 qwerty1! qwerty!@# qwertyu1 qwertyui qwertyuio qwertyuiop
    qwertyuiop1 qwertyuiop123 qwertyuiop[] qwertyqwerty qwertzui qwertzuiop qwertz123 azertyui
    azertyuiop azerty123 zxcvbnm1 zxcvbnm123 zxcvbnm, zxcvbnm,./ zxcvbnmz zxc123456 zxcv1234
    zxcvzxcv zxcasdqwe zxcasdqwe123 zxczxczxc zzzzzzzz xxxxxxxx iloveyou iloveyou1 iloveyou2
    iloveyou3 iloveyou12 iloveyou123 iloveyou! iloveu123 iloveme1 iloveme123 ilovemyself ilovejesus
    ilovegod1 ilovemom1 loveyou1 loveyou123 lovelove lovelove1 lovely123 loveme123 love12345
    love123456 mylove123 trustno1 trustn01 letmein1 letmein12 letmein123 letmein! letmeinnow
    welcome1 welcome12 welcome123 welcome1234 welcome1! welcome! welcome01 welcome2020 welcome2021
    welcome2022 welcome2023 welcome2024 welcome2025 welcome2026 admin123 admin1234 admin12345
    admin123456 admin123! admin@123 admin2020 admin2024 admin2025 adminadmin administrator
    administrator1 root1234 root12345 rootroot rootroot1 toor1234 changeme changeme1 changeme123
    changeit default1 default123 guest123 guest1234 login123 login1234 test1234 test12345
    test123456 test123! testtest testtest1 testing1 testing12 testing123 tester123 testuser
    temp1234 temp12345 temppass temporary user1234 user12345 username username1 secret12 secret123
    secret1234 secretsecret topsecret topsecret1 master123 master1234 mastermaster demo1234
    demodemo sample123 example1 example123 monkey12 monkey123 monkey1234 dragon12 dragon123
    dragon1234 shadow12 shadow123 football football1 football12 football123 baseball baseball1
    baseball12 basketball basketball1 volleyball softball soccer12 soccer123 hockey123 liverpool
    liverpool1 liverpoolfc arsenal1 arsenal12 arsenal123 chelsea1 chelsea12 chelsea123 chelseafc
    manchester manchester1 manutd123 manunited barcelona barcelona1 realmadrid realmadrid1 juventus
    juventus1 ronaldo7 ronaldo123 messi123 superman superman1 superman123 batman12 batman123
    spiderman spiderman1 starwars starwars1 startrek pokemon1 pokemon123 minecraft minecraft1
    minecraft123 naruto123 princess princess1 princess12 princess123 sunshine sunshine1 sunshine12
    sunshine123 butterfly butterfly1 babygirl babygirl1 babygirl12 chocolate chocolate1 chocolat
    strawberry strawberry1 cheesecake michelle michelle1 jennifer jennifer1 jessica1 jessica123
    charlie1 charlie123 jordan23 jordan123 michael1 michael123 matthew1 daniel12 daniel123 anthony1
    andrew12 andrew123 ashley12 ashley123 thomas12 thomas123 robert12 robert123 hannah123 victoria
    victoria1 veronica elizabeth elizabeth1 alexander alexander1 alexandra benjamin benjamin1
    christian christian1 christine christina christopher danielle danielle1 dominique francisco
    gabriel1 isabella isabelle jonathan jonathan1 kimberly kristina nathaniel nicholas nicholas1
    patricia samantha samantha1 sebastian stephanie stephanie1 valentina valentine william1
    computer computer1 computer123 internet internet1 internet123 whatever whatever1 whatever123
    whatsapp whatsapp1 facebook facebook1 facebook123 instagram google123 googlegoogle samsung1
    samsung123 apple123 android1 android123 windows1 windows10 linux123 ubuntu123 mustang1 corvette
    ferrari1 mercedes mercedes1 porsche1 harley123 yamaha123 toyota123 cocacola cocacola1 blink182
    metallica metallica1 slipknot slipknot1 nirvana1 eminem123 hello123 hello1234 hello12345
    hellohello helloworld helloworld1 helloworld123 hellokitty hello123! freedom1 freedom123
    forever1 forever123 friends1 friends123 friendship sweetheart sweetie1 darling1 angel123
    angels123 heaven123 jesus123 jesus1234 jesuschrist jesusislord jesuslovesme godisgood
    godisgood1 godislove godbless godbless1 blessed1 blessed123 blessing blessing1 blessings
    hallelujah bismillah bismillah1 allahuakbar mohammed mohammed1 muhammad muhammad1 ibrahim123
    success1 success123 happy123 happiness happyday family123 mother123 father123 brother1
    sister123 grandma1 money123 moneymoney mpesa123 mpesa1234 safaricom safaricom1 safaricom123
    safaricom2024 safaricom2025 airtel123 kenya123 kenya1234 kenya254 kenya2020 kenya2024 kenya2025
    kenyakenya nairobi1 nairobi12 nairobi123 nairobi254 mombasa1 mombasa123 kisumu123 nakuru123
    eldoret1 uganda123 kampala1 kampala123 tanzania tanzania1 tanzania123 rwanda123 africa123
    africa254 hakunamatata nakupenda nakupenda1 karibu123 harambee harambee1 simba123 lion1234
    savannah savannah1 savannah123 business business1 company1 company123 office123 manager1
    manager123 employee system123 server123 oracle123 mysql123 postgres postgres1 postgres123
    database database1 security security1 security123 access123 access14 letmein01 opensesame
    abrakadabra abracadabra alphabet alphabet1 elephant elephant1 dolphins crocodile mountain
    mountains diamond1 diamonds platinum1 september september1 november november1 december
    december1 february saturday summer12 summer123 summer2020 summer2021 summer2022 summer2023
    summer2024 summer2025 summer2026 winter12 winter123 winter2020 winter2021 winter2022 winter2023
    winter2024 winter2025 winter2026 spring2023 spring2024 spring2025 spring2026 autumn2023
    autumn2024 autumn2025 autumn2026 january1 monday123 friday13 friday123 purple123 orange123
    yellow12 yellow123 silver123 golden123 midnight midnight1 moonlight rainbow1 rainbow123
    snowball snowflake starlight thunder1 lightning hurricane hunter12 hunter123 ranger123 killer12
    killer123 warrior1 scorpion scorpion1 phoenix1 phantom1 predator terminator gladiator
    undertaker assassin maverick marlboro jackdaniels budweiser heineken penguin1 panther1 cheetah1
    leopard1 buster123 ginger123 pepper123 cookie123 peaches1 pumpkin1 peanut123 patches1 bubbles1
    tinkerbell snoopy123 scooby123 garfield mickey123 mickeymouse donald123 goodluck goodluck1
    goodmorning goodbye1 lovebird sunflower sunflower1 wildflower password.1 password@1
    password@123 pass1234 pass12345 pass123456 pass@123 pass@1234 pass@word1 passpass passpass1
    passcode passcode1 12qwaszx 1234!@#$ !@#$%^&* !@#$%^&*( !@#$%^&*() 123456!@ 1qa2ws3ed a1s2d3f4
    a1s2d3f4g5 as123456 az123456 zx123456 mm123456 qq123456 qq123456789 ww123456 aaa123456 aaa12345
    abc@1234 abc@123456 abcd@1234 abcd@123 test@123 test@1234 welcome@123 welcome@1 qwerty@123
    hello@123 india123 india@123 google@123 secret@123 user@123 root@123 demo@123
    """.split()  # noqa: SIM905 - see above
)
