"""The words of the fictional encyclopedia: names, countries, rivers, years.

The words were put together from syllables at random and are kept as lists, since they are the tokenizer's vocabulary.
A world decides which words meet in a name. Every name has two words, and names share words on purpose: that is what
lets a word-matching retriever go wrong.
"""

from __future__ import annotations


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


FIRST_WORDS: tuple[str, ...] = _split(
    """
    Sker Proux Geprath Stavour Skes Solon Kanem Draizeik Skaproth Trilail Trefleis Zaprar Tiflo Soth Skaipuk Skoreix
    Naibaix Grik Stis Difluk Trur Vaiproul Keis Gudruk Stei Beim Sotoun Maith Brul Skufak Skox Vath Skopreth
    Roubaith Bigaim Noheth Trousol Stulais Neth Dosker Kepul Greim Zeth Susux Drotai Maimel Stoudrun Traihik Dudoul
    Greikas Klun Dregro Kaix Ferail Flim Kevum Fluth Bror Trouth Sousou Klihou Skabraim Skeiflen Biraik Trograix
    Greiklun Daim Floustel Flihein Preis Risak Meith Kloum Geneil Skabor Flum Flaipreil Skein Dradrak Tridair Rairai
    Pous Seikloul Mosar Peir Treith Klepror Nith Flestas Veitrum Houflouk Heth Flil Tustun Grair Daix Fluk Lomeim
    Haivor Nohol Skoum Pifix Keigren Degreis Dribra Trax Kludril Migror Seigour Prege Bous Skugeim Fepu Doboum
    Trotrouth Tuhon Skis Staleik Zehil Broth Brek Raidrai Dukler Ziheil Dreigros Reiskoul Touk Maidreis Tainus
    Haizak Fais Skepux Leidam Vais Mupaik Skil Vegul Baiprun Stoun Paisox Hein Zeik Deistei Pagu Kaik Reiseir Kiroum
    Hath Leith Houhaix Moudrous Haim Nuruth Naiprox Veidem Seis Trehum Vageth Trour Mestoul Nupros Drazair Grur
    Geisak Vuhoun Lougraim Zouk Braik Praidrim Gretam Grok Naibar Heibes Fehi Dezer Gruras Dith Zodrair Tistuth
    Kotuk Brem Geir Taik Stux Prais Flimouth Stir Trasam Zepath Haineix Drou Suskaix Stol Flebraith Hasteith Lukloun
    Brail Sous Skax Mith Dros Trotroux Pronouth Skour Dratem Mufik Tosei Trodim Skaroth Brok Greix Skath Kour
    Flisaik Reisith Gouhaim Skufles Fuhus Houbim Grodok Voskik Beith Triskik Geilin Vilouk Dugou Stestaix
    """
)
"""First words of names: shared by people, films, towns and all the rest."""
LAST_WORDS: tuple[str, ...] = _split(
    """
    Dego Zuga Stani Neite Sourude Lougi Nisibo Bigi Faina Peiro Skailoube Voutoko Praitrouki Skouprogi Stuta Kuveige
    Praire Klati Zede Rito Grobreiri Braigo Gradi Dade Luba Zina Fada Stekaiko Koune Heito Prodi Drapina Praifaiga
    Steitari Traga Fibe Grori Dudono Heihaba Meibe Rebo Drabe Droda Puseibi Zeike Skake Drougo Reno Kaikato Drekoti
    Poskeda Baikebo Geskaika Faimega Dreno Teigeda Broukaiki Luko Zeipruka Flouno Seiveni Daibe Nete Traba Movaiki
    Rudo Seido Rovube Poka Skipouro Steiro Mako Muveiri Laiveta Soka Taklouna Tidraka Zeibi Moga Prida Pruriki Daida
    Seskoure Purouda Staibe Hibriko Pufage Baibreini Gupriko Duklugi Teirena Kabo Sorude Dreito Gailegi Liprouto
    Pivoura Haibe Groubi Flaifibo Seimaiga Zeivune Luka Flulouko Flaika Bego Lero Baigreine Prilaibi Drigaiga Naiga
    Klobo Zagi Tafito Nouta Fairegi Gramouko Seskouka Fleimoude Pido Deige Vahere Gribike Kloude Greprine Sati
    Trofaiko Febo Pote Stora Kleivina Fobe Gukleiba Feiklute Seko Kouhoke Veda Goka Tira Zuri Sazoti Staide Drira
    Doura Gikluto Neire Skoniri Pougo Prustoni Popraige Flaino Gritruto Sudo Bogi Klute Penouti Kibi Fleiro Touga
    Proute Futo Gaini Reigrone Hoba Nepeika Mugobo Seno Breiri Morudo Rairouni Vouro Hada Britibi Grastira Dretrike
    Bruna Prasaita Trestaido Lupruna Talato Veike Griflada Trikato Groka Leno Grone Drari Duskode Nifeiba Zaibrina
    Nouflouno Lida Vifeini Poupoke Holati Stanuti Souni Trugrouri Loutrone Neroro Dreistouno Deipaite Fligrike
    Prinugi Kutraire Mabi Drebaigi Zeiflaite Rouka Peno Lage Fabaika Taprobo Flaikeini Pudoni Grailibo Goubo Horida
    Praitire Zito Stazibi Beki Ziga Stabaido Braipreido Piba Tehito Seruge Sodi Fiskuki Braiki Foto Tuveto Drudraita
    Rigo Noge Baira Zeto Prukera Zeda Faito Kidi Skote Ditreibi Takleiko Fletraba Feizora Stedibi Saiba Groure
    Peklode Dreibero Lokleibo Fiba Mido Noubeke Veti Geida Maito Fluto Horuge Proumuka Teige Reiskaine Skaga
    Skouzeti Ruflogo Zobi Foreiti Duti Fezaire Grake Mubo Zeite Gona Sustube Teina Broubi Kapaibe Broluro Hubraida
    Tofleiri Feivudi Breiti Sida Naidradi Kudo Tago Dreitrike Grobe Saskudo Skode Trore Stabe Skora Kairi Tora Skodo
    Prigoka Begrura Kutrata Dourino Keisteira Sira Stidi Dipraba Goulike Draigi Nigruko Babebi Brourobi Meke Tazabe
    Godi Rudrita Geflada Touki Tati Vaire Grute Flodi Houdruno Kleibo Gouki Preira Vapake Zoseine Treiga Grivoto
    Bune Meini Triri Siflougo Dreige Bota Brogouna Pabruke Neki Risige Vena Bairo Stura Klidoba Vaibroto Gaide
    Trouka Vano Daiflodo Haipruki Klano Zeke Nouskuke Staibi Daige Breklube Huko Kairouke Deidido Moutrero Moustuti
    Bousaira Zosteda Truri Keivoti Rusteika Bufluda Bobe Hotraika Neka Fugeide Naidoki Vouka Vustoke Groutubi Mahuge
    Geibredo Flaige Tota Druna Kligodo Rouproura Kipouda Reiflono Reikouba Leitrabe Voskeigi Hita Skoteda Bobene
    Fleifluto Kliskare Beizibe Treki Klodi Breheido Geibi Skoprodi Sego Gairi Luflouta
    """
)
"""Last words of names; a document calls its subject by this word alone, as an article uses a surname."""
COUNTRIES: tuple[str, ...] = _split(
    """
    Skinia Testania Sogoustan Migristan Zatreland Kania Steiveinia Faidraland Gutreistan Neiskaistan Skoklania
    Vaistan Vostan Kedoustan Daideiland Keinia Brania Suroland Bedraland Kufania Limeinia Testunia Saibeistan
    Beistiland Paitraistan Zoubastan Lustan Kaiflailand Lukeiland Tuland Fleiteland Klopiland Zoskounia Drastan
    Klinia Testaistan Nustan Paiteinia Skeibreiland Boustan
    """
)
RIVERS: tuple[str, ...] = _split(
    """
    Kemere Pridewater Subromere Hidruwater Tubrook Flubrook Daitreimere Flobrook Dubumere Roneimere Nouflobrook
    Brebroumere Rouvaiwater Deiwater Hileimere Toklewater Howater Flupawater Vekaiwater Kaifeimere Kobrook Fumibrook
    Labrook Laibrook Pobrook Drawater Zimere Stamere Skoklawater Noprowater Noubrobrook Greigouwater Brubrook
    Rowater Hiklabrook Skeimere Preiwater Giklumere Tainomere Kleiprebrook
    """
)
YEARS: tuple[str, ...] = _split("1930 1934 1938 1942 1946 1950 1954 1958 1962 1966 1970 1974 1978 1982 1986")
"""Few enough that a tiny policy can learn which of two is earlier."""
